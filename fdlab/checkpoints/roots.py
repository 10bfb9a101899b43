"""Where networks lie in a file, whoever wrapped them: by the place of a patch embedding, not by a prefix's name.

Authors' layouts have fixed places (``families``). Trainers add prefixes of their own (``model.``, ``net._orig_mod.``,
``student_backbone.vit.``); a root is a table and a prefix under which a patch embedding of a known family stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fdlab.checkpoints.contents import Contents

MAX_ROOTS = 32  # a training file of several networks has less than ten
MAX_NESTED = 16
# Which of several networks is taken, by the words in its path: averaged weights and teachers first; the slow copy
# of a contrastive method (momentum, key) after the network itself, as their authors evaluate it; frozen teachers last.
_ORDER = (
    ({"gram", "frozen", "feature"}, 7),
    ({"momentum", "key", "k"}, 6),
    ({"student"}, 5),
    ({"ema", "swa", "averaged"}, 0),
    ({"teacher"}, 1),
    ({"online"}, 2),
    ({"target"}, 3),
)
_PLAIN = 4


@dataclass(frozen=True)
class Root:
    """A network's place: its table, and the prefix of its keys with the last dot."""

    table: str
    prefix: str

    @property
    def path(self) -> str:
        """The place as one dotted name, ``top level`` where it has none."""
        return ".".join(part for part in (self.table, self.prefix.rstrip(".")) if part) or "top level"

    @property
    def words(self) -> frozenset[str]:
        return frozenset(re.split(r"[._]", self.path.lower()))

    @property
    def rank(self) -> int:
        return next((rank for words, rank in _ORDER if words & self.words), _PLAIN)

    def outer(self) -> Iterator[str]:
        """The prefix's own beginnings, the shortest (empty) first, itself last."""
        parts = self.prefix.split(".")
        for count in range(len(parts)):
            yield "".join(f"{part}." for part in parts[:count])


def find_roots(contents: Contents, markers: Iterable[str]) -> list[Root]:
    """Every place where one of the ``markers`` stands, the one to take first."""
    endings = tuple(dict.fromkeys(markers))
    found: dict[Root, None] = {}
    for table, tensors in contents.tables.items():
        for key in tensors:
            for marker in endings:
                if key == marker or key.endswith(f".{marker}"):
                    root = Root(table, key.removesuffix(marker))
                    if root.prefix.count(".") <= MAX_NESTED and len(found) < MAX_ROOTS:
                        found[root] = None
    return sorted(found, key=lambda root: root.rank)


def named(roots: Sequence[Root]) -> dict[str, Root]:
    """Short names for ``@NAME``: the prefix or the table alone where that is enough, else the whole path."""
    short = {root: root.prefix.rstrip(".") or root.path for root in roots}
    names = list(short.values())
    return {(name if names.count(name) == 1 else root.path): root for root, name in short.items()}


def pick(roots: Sequence[Root], name: str) -> Root | None:
    """The one root that ``@NAME`` means: its path, an end or a beginning of it, or a word that no other path has."""
    ways = (
        lambda root: root.path == name or root.prefix.rstrip(".") == name,
        lambda root: root.path.endswith((f".{name}", f"{name}.")),
        lambda root: f"{root.prefix}".startswith(f"{name}.") or root.path.startswith(f"{name}."),
        lambda root: name.lower() in root.words,
    )
    for fits in ways:
        found = [root for root in roots if fits(root)]
        if len(found) == 1:
            return found[0]
    return None
