"""Which network of a file is taken, and under which family's rules.

First the families are asked for their authors' own layout, where every key beside the network is known. Then every
other place with a patch embedding is tried (``roots``): under any prefix, in any table, with anything beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families import (
    beit,
    clip,
    deit,
    dino,
    dinov2,
    eva02,
    feature_distillation,
    hf_swin,
    huggingface,
    jax_vit,
    mae,
    moco,
    openmmlab,
    sam,
    simmim,
    swin,
    timm_files,
    torchvision_vit,
    vit_pytorch,
)
from fdlab.checkpoints.families.family import Family, Place
from fdlab.checkpoints.leftovers import is_beside
from fdlab.checkpoints.roots import Root, find_roots, named, pick
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest

FAMILIES: tuple[Family, ...] = (
    *timm_files.FAMILIES,
    *feature_distillation.FAMILIES,
    *simmim.FAMILIES,
    *moco.FAMILIES,
    *clip.FAMILIES,
    *hf_swin.FAMILIES,
    *huggingface.FAMILIES,
    *openmmlab.FAMILIES,
    *jax_vit.FAMILIES,
    *vit_pytorch.FAMILIES,
    *sam.FAMILIES,
    *torchvision_vit.FAMILIES,
    *swin.FAMILIES,
    *eva02.FAMILIES,
    *dinov2.FAMILIES,
    *beit.FAMILIES,
    *mae.FAMILIES,
    *deit.FAMILIES,
    *dino.FAMILIES,
)


@dataclass(frozen=True)
class Network:
    """Tensors under the class's keys (float32); those used, under the file's; unknown ones; how many known ones."""

    state: dict[str, Tensor]
    used: dict[str, Tensor]
    beside: tuple[str, ...]
    known: int


@dataclass(frozen=True)
class Found:
    """A network of a file, with the family whose rules it follows.

    Attributes:
        contents: the file's, or (under a wrapper) those below the wrapper's prefix.
        place: where the network lies in ``contents``.
        taken, others: its name, and those of the file's other networks.
        container: where it lies in the file, in words.
        beside: keys outside of ``contents``, which are left out.
        other_prefixes: of other networks in the same table.
    """

    family: Family
    contents: Contents
    place: Place
    taken: str
    others: tuple[str, ...]
    container: str
    beside: tuple[str, ...] = ()
    other_prefixes: tuple[str, ...] = ()

    def network(self) -> Network:
        """The network's tensors, apart from what lies beside it."""
        family = self.family
        leftovers = [re.compile(pattern) for pattern in family.leftovers]
        others = tuple(f"/{prefix}" for prefix in self.other_prefixes if prefix)
        state: dict[str, Tensor] = {}
        unknown: list[str] = []
        used: dict[str, Tensor] = {}
        known = 0
        for key, tensor in family.tensors(self.contents, self.place).items():
            if any(pattern.fullmatch(key) for pattern in leftovers) or (others and key.startswith(others)):
                known += 1
                continue
            name = key
            for pattern, replacement in family.renames:
                name = re.sub(pattern, replacement, name)
            if name.startswith("/"):
                unknown.append(name)
            else:
                used[key.removeprefix("/")] = tensor
                state[name] = tensor.float() if tensor.is_floating_point() else tensor
        state = family.convert(state) if family.convert else state
        return Network(state, used, (*unknown, *self.beside), known)


def find(contents: Contents, path: object, encoder: str | None = None) -> Found | None:
    """The network named ``encoder`` (default: the authors' choice, else the first root); None where no family fits.

    Raises:
        FdlabError: code 2, the file holds no network of that name.
    """
    roots = find_roots(contents, (family.marker for family in FAMILIES))
    own = _in_its_layout(contents, roots)
    if own is not None:
        networks = own.family.networks(contents)
        if encoder is None or encoder in networks:
            return _with_others(own, encoder or own.taken, networks)
        roots = [root for root in roots if not _is_leftover(own.family, root)]
    wanted = [pick(roots, encoder)] if encoder is not None else roots
    fitting = ((root, each) for root in wanted if root and (each := _under_wrappers(contents, root, roots)))
    first, found = next(fitting, (None, None))
    equal = [root for root, _ in fitting if first is not None and root.rank == first.rank]
    if first is not None and equal:
        raise FdlabError(
            f"{path} holds several networks, and none of them comes first.",
            "; ".join(f"{name}: @{name}" for name, root in named(roots).items() if root in (first, *equal)) + ".",
            "Add @NAME with one of them to the file.",
            code=NOT_UNDERSTOOD,
        )
    if found is None and encoder is not None and (own is not None or roots):
        names = tuple(own.family.networks(contents)) if own else tuple(named(roots))
        held = f"It is {own.family.name} and holds" if own else "It holds"
        raise FdlabError(
            f"{path} holds no '{encoder}'.",
            f"{held} {', '.join(names)}.",
            f"Use @NAME or encoder= with one of them.{nearest(encoder, names)}",
            code=USAGE,
        )
    return found


def _in_its_layout(contents: Contents, roots: Sequence[Root]) -> Found | None:
    """The first family whose signature fits the place where its authors put the network, nothing unknown beside it."""
    for family in FAMILIES:
        if family.recognises(contents):
            networks = family.networks(contents)
            taken = next(name for name in family.default if name in networks)
            found = _with_others(Found(family, contents, networks[taken], taken, (), ""), taken, networks)
            if not (family.exact and (_has_more(found) or _has_better(found, networks, roots))):
                return found
    return None


def _has_more(found: Found) -> bool:
    """Whether keys beside the network are not its family's, so that another wrote this file."""
    network = found.network()
    own = re.compile(r"head(_dist)?\.(weight|bias|fc\.)")
    return bool(network.beside) or any(is_beside(key) for key in network.state if not own.match(key))


def _has_better(found: Found, networks: dict[str, Place], roots: Sequence[Root]) -> bool:
    """Whether averaged weights or a teacher lie where the family knows no place, beside a network of lower standing."""
    marker = found.family.marker
    own = {Root(place.table, place.prefix_in(found.contents, marker) or "") for place in networks.values()}
    place = networks[found.taken]
    taken = Root(place.table, place.prefix_in(found.contents, marker) or "")
    return any(root not in own and root.rank < min(taken.rank, 2) for root in roots)


def _with_others(found: Found, taken: str, networks: dict[str, Place]) -> Found:
    family, contents, place = found.family, found.contents, networks[taken]
    others = tuple(name for name in networks if name != taken)
    prefix = (place.prefix_in(contents, family.marker) or "").rstrip(".")
    return replace(
        found,
        place=place,
        taken=taken,
        others=others,
        container=".".join(part for part in (place.table, prefix) if part) or "top level",
        other_prefixes=tuple(networks[name].prefix_in(contents, family.marker) or "" for name in others),
    )


def _is_leftover(family: Family, root: Root) -> bool:
    """Whether the family says that what lies here is no encoder to take (a frozen teacher)."""
    return any(re.fullmatch(pattern, f"/{root.prefix}{family.marker}") for pattern in family.leftovers)


def _under_wrappers(contents: Contents, root: Root, roots: Sequence[Root]) -> Found | None:
    """The first family that fits below one of the root's prefixes, the outermost first."""
    names = named(roots)
    taken = next(name for name, each in names.items() if each == root)
    others = tuple(name for name, each in names.items() if each != root)
    for outer in root.outer():
        inside = contents.below(root.table, outer)
        rest = root.prefix.removeprefix(outer)
        outside = tuple(key for key in contents.tables[root.table] if not key.startswith(outer))
        for family, place in _fitting(inside, rest):
            beside = tuple(f"/{each.prefix}" for each in roots if each != root and each.table == root.table)
            left = tuple(key for key in outside if not f"/{key}".startswith(beside))
            prefixes = tuple(
                each.prefix.removeprefix(outer)
                for each in roots
                if each != root and each.table == root.table and each.prefix.startswith(outer)
            )
            return Found(family, inside, place, taken, others, root.path, left, prefixes)
    return None


def _fitting(inside: Contents, rest: str) -> Iterator[tuple[Family, Place]]:
    """Families whose signature fits the network under ``rest``, by a place of theirs or anywhere."""
    for family in FAMILIES:
        if family.exact:
            continue
        places = [place for places in family.encoders.values() for place in places if place.table == ""]
        allowed = [Place("", (rest,))] if rest == "" or any(rest in place.prefixes for place in places) else []
        for place in allowed:
            if place.prefix_in(inside, family.marker) is not None and family.fits(inside, place):
                yield family, place
