"""From a weight file to a stock timm module: which family, which network, which arguments.

Recognition is by structure, never by file name or size. Every key is used or known to be left over;
anything else is an error that names it. A new family is added to ``FAMILIES``, the most specific first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fdlab.encoders.blank import blank
from fdlab.encoders.encoder import Size, TimmCall, _pair
from fdlab.encoders.families import dino, mae
from fdlab.encoders.families.family import Contents, Family, Place
from fdlab.encoders.positions import METHODS, resize_absolute, square_grid
from fdlab.encoders.student import seeded
from fdlab.encoders.unpickle import WeightFile
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest
from fdlab.randomness import seed_for

FAMILIES: tuple[Family, ...] = (mae.FAMILY, dino.FAMILY)


@dataclass(frozen=True)
class Recognised:
    """A network taken out of a file, under the timm class's keys, with how to make that class."""

    family: Family
    taken: str
    others: tuple[str, ...]
    container: str
    state: Mapping[str, Tensor]
    call: TimmCall
    assumed: tuple[str, ...]

    def module(self, *, random_seed: int | None = None) -> nn.Module:
        """The stock module with the file's weights, or with fresh ones where a seed is given."""
        with seeded(seed_for(random_seed or 0, "construct")):
            module = blank(self.call.make) if random_seed is None else self.call.make()
        state = dict(self.state)
        if random_seed is not None:
            fresh = module.state_dict()
            state = {**fresh, **({"pos_embed": state["pos_embed"]} if self.family.fixed_positions else {})}
        module.load_state_dict(state, strict=True)
        return module


def find_family(file: WeightFile) -> tuple[Family, Contents]:
    """The first family whose signature fits, or an error with the families tried and the first keys."""
    contents = Contents.of(file.content)
    for family in FAMILIES:
        if family.matches(contents):
            return family, contents
    tables = "; ".join(
        f"{name or 'top level'}: {', '.join(list(table)[:6])}" for name, table in list(contents.tables.items())[:4]
    )
    why = f"Tried: fdlab, {', '.join(f.name for f in FAMILIES)}. First keys: {tables or 'no tensors at all'}."
    raise FdlabError(
        f"{file.path} has no layout that fdlab knows.",
        why,
        "Give a file of a known family, or its name to timm: timm:NAME.",
        NOT_UNDERSTOOD,
    )


def recognise(
    file: WeightFile, *, encoder: str | None = None, heads: int | None = None, image_size: Size | None = None
) -> Recognised:
    """The network named ``encoder`` (default: the family's) of a foreign file.

    Raises:
        FdlabError: code 3 for an unknown layout, key or head count; code 2 for a wrong argument.
    """
    family, contents = find_family(file)
    networks = family.networks(contents)
    taken = encoder or next(name for name in family.default if name in networks)
    if taken not in networks:
        raise FdlabError(
            f"{file.path} holds no '{taken}'.",
            f"It is {family.name} and holds {', '.join(networks)}.",
            f"Use @NAME or encoder= with one of them.{nearest(taken, networks)}",
            USAGE,
        )
    place = networks[taken]
    state = _state(file.path, family, contents, place)
    count, said = _heads(file.path, family, contents, state, heads)
    call, state, resized = _plain_vit(file.path, family, state, count, image_size)
    container = ".".join(part for part in (place.table, (place.prefix_in(contents) or "").rstrip(".")) if part)
    return Recognised(
        family,
        taken,
        tuple(name for name in networks if name != taken),
        container or "top level",
        state,
        call,
        (*family.assumed, *said, *resized),
    )


def _state(path: Path, family: Family, contents: Contents, place: Place) -> dict[str, Tensor]:
    """The network's tensors under timm's keys, float32; every key of the table accounted for."""
    prefix = place.prefix_in(contents) or ""
    state, unknown = {}, []
    for key, tensor in contents.tables[place.table].items():
        known = any(re.fullmatch(pattern, key.removeprefix(prefix)) for pattern in family.leftovers)
        if known:
            continue
        if not key.startswith(prefix):
            unknown.append(key)
            continue
        name = key.removeprefix(prefix)
        for pattern, replacement in family.renames:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor.float()
    if unknown:
        raise _key_error(path, family, unknown, ())
    return state


def _key_error(path: Path, family: Family, extra: Any, missing: Any) -> FdlabError:
    parts = [
        f"{label}: {', '.join(sorted(keys)[:8])}{' ...' if len(keys) > 8 else ''}"
        for label, keys in (("not known", extra), ("missing", missing))
        if keys
    ]
    return FdlabError(
        f"{path} does not fit its nearest family, {family.name}.",
        f"Keys {'; '.join(parts)}.",
        "The file is of another family or was changed; fdlab never loads a part of a network.",
        NOT_UNDERSTOOD,
    )


def _heads(
    path: Path, family: Family, contents: Contents, state: Mapping[str, Tensor], given: int | None
) -> tuple[int, tuple[str, ...]]:
    """The head count: the argument, else the file's arch, else the family's table; else refused."""
    width = int(state["patch_embed.proj.weight"].shape[0])
    if given is not None:
        if given < 1 or width % given:
            raise FdlabError(f"{given} heads do not divide the width {width} of {path}.", "", "Check heads=.", USAGE)
        return given, (f"heads = {given}: given by the user",)
    if contents.arch in family.arches and width % 64 == 0:
        return width // 64, (f"heads = width/64 = {width // 64}: the file's arch is {contents.arch}",)
    if width in family.heads:
        count = family.heads[width]
        how = "width/64" if count * 64 == width else f"{count} for width {width}"
        return count, (f"heads = {how} = {count}: the published {family.name} models of width {width}",)
    raise FdlabError(
        f"{path}: the number of attention heads is unknown.",
        f"The file does not hold it, and no published {family.name} model has width {width}.",
        f"Give heads= (width/64 would be {width / 64:g}); a wrong number loads and is silently wrong.",
        NOT_UNDERSTOOD,
    )


def _plain_vit(
    path: Path, family: Family, state: dict[str, Tensor], heads: int, image_size: Size | None
) -> tuple[TimmCall, dict[str, Tensor], tuple[str, ...]]:
    """The class's arguments from shapes, and the table at the wanted size."""
    try:
        width, channels, patch, patch_w = state["patch_embed.proj.weight"].shape
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        table = state["pos_embed"]
        depth = 1 + max(int(key.split(".")[1]) for key in state if re.match(r"blocks\.\d+\.", key))
    except (KeyError, ValueError) as error:
        raise _key_error(path, family, (), [str(error).strip("'")]) from error
    if patch != patch_w:
        raise FdlabError(f"{path} has oblong patches.", f"{patch}x{patch_w} pixels.", "", NOT_UNDERSTOOD)
    prefix = 1 if "cls_token" in state else 0
    new = _grid(image_size, int(patch)) if image_size is not None else None
    if new is not None and new[0] * new[1] == table.shape[1] - prefix and not _is_square(table.shape[1] - prefix):
        old = new  # an oblong table whose shape the user has given
    else:
        old = square_grid(table.shape[1] - prefix, what=str(path))
    new = new or old
    state = {**state, "pos_embed": resize_absolute(table, old, new, prefix=prefix, method=family.resize)}
    said: tuple[str, ...] = ()
    if new != old:
        how = f"{METHODS[family.resize]} (the way of {family.name})"
        said = (f"position table {old[0]}x{old[1]} -> {new[0]}x{new[1]}: {how}",)
    ratio = hidden / width
    if int(width * ratio) != hidden:  # timm truncates the product
        ratio = (hidden + 0.5) / width
    size = (new[0] * patch, new[1] * patch)
    call = TimmCall(
        family.timm_class,
        {
            "img_size": size[0] if size[0] == size[1] else size,
            "patch_size": patch,
            "in_chans": channels,
            "num_classes": 0,
            "global_pool": "",
            "fc_norm": False,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": ratio,
            "qkv_bias": "blocks.0.attn.qkv.bias" in state,
            "class_token": bool(prefix),
        },
        family.norm_eps,
    )
    _check_keys(path, family, call, state)
    return call, state, said


def _check_keys(path: Path, family: Family, call: TimmCall, state: Mapping[str, Tensor]) -> None:
    """Every key used and every parameter found, with equal shapes, before anything is loaded."""
    import torch

    with torch.device("meta"):
        wanted = call.make().state_dict()
    extra, missing = set(state) - set(wanted), set(wanted) - set(state)
    if extra or missing:
        raise _key_error(path, family, extra, missing)
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if state[key].shape != wanted[key].shape
    ]
    if wrong:
        raise FdlabError(f"{path} has tensors of unfitting shapes.", "; ".join(wrong[:4]) + ".", "", NOT_UNDERSTOOD)


def _grid(size: Size, patch: int) -> tuple[int, int]:
    height, width = _pair(size)
    if height < patch or width < patch or height % patch or width % patch:
        raise FdlabError(
            f"image_size {height}x{width} does not fit.",
            f"It must be a multiple of the patch, {patch}.",
            "",
            USAGE,
        )
    return height // patch, width // patch


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number
