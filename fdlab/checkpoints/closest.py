"""What a file of an unknown layout is nearest to, and in which keys it differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fdlab.checkpoints.builders.built import KeysDiffer
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import Place
from fdlab.checkpoints.find import FAMILIES, Found
from fdlab.checkpoints.roots import Root, find_roots
from fdlab.errors import FdlabError

MAX_TRIED = 64  # families times places; nothing is made but shapes
SHOWN = 3
_USUAL = re.compile(
    r"(blocks|layers)\.\d+\.(blocks\.\d+\.)?(norm\d|attn|mlp|ls\d|gamma_\d|downsample)\b.*"
    r"|(patch_embed|norm|head|fc_norm|norm_pre)\..*|cls_token|pos_embed|reg_token|dist_token|rel_pos_bias\..*"
)


@dataclass(frozen=True)
class Near:
    """A family, where its network would lie, and the keys that differ from it.

    ``doubt``: 0, all keys were compared; 1, those up to the first that is missing; 2, the tensors broke a rule before.
    """

    family: str
    title: str
    place: str
    extra: tuple[str, ...]
    missing: tuple[str, ...]
    doubt: int = 0

    def said(self) -> str:
        """One sentence with the first keys that differ."""
        parts = [
            f"{label} {', '.join(keys[:SHOWN])}{' ...' if len(keys) > SHOWN else ''}"
            for label, keys in (("not known:", self.extra), ("missing:", self.missing))
            if keys
        ]
        where = f" under {self.place}" if self.place != "top level" else ""
        return f"Nearest is {self.family} ({self.title}){where}; keys {'; '.join(parts)}."


def closest(contents: Contents, build: Callable[[Found], None]) -> Near | None:
    """The family that the fewest keys separate from a network of the file; ``build`` makes it or raises."""
    found: list[Near] = []
    for family_found, root in list(_candidates(contents))[:MAX_TRIED]:
        odd: list[str] = []
        try:
            odd = [key for key in family_found.network().state if not _USUAL.fullmatch(key)]
            build(family_found)
        except KeysDiffer as error:
            extra = error.extra or odd
            found.append(_near(family_found, root, extra, error.missing, 0 if error.whole else 1))
        except (FdlabError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            if odd:
                found.append(_near(family_found, root, odd, (), 2))
    # Of equally near ones the plainest, which stands last.
    return min(reversed(found), key=lambda near: (near.doubt, len(near.extra) + len(near.missing)), default=None)


def _near(found: Found, root: Root, extra: object, missing: object, doubt: int) -> Near:
    first, second = (tuple(sorted(map(str, group))) for group in (extra, missing))  # type: ignore[call-overload]
    return Near(found.family.name, found.family.title, root.path, first, second, doubt)


def _candidates(contents: Contents) -> Iterator[tuple[Found, Root]]:
    for root in find_roots(contents, (family.marker for family in FAMILIES)):
        inside = contents.below(root.table, root.prefix)
        for family in FAMILIES:
            if family.marker in inside.tables[""] and family.builder != "timm":
                yield Found(family, inside, Place(""), root.path, (), root.path), root
