"""What every builder takes and gives, and the readings that they share: depth, heads, grid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import Family
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import Size, TimmCall, pair
from fdlab.encoders.positions import METHODS, RELATIVE_METHODS, Grid
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

Sentences = tuple[str, ...]
HEADS = "number of heads"  # a converter leaves the count here where a shape of the file shows it


@dataclass(frozen=True)
class Ask:
    """What a builder knows besides the tensors: the file's words and the caller's wishes."""

    path: Path
    family: Family
    contents: Contents
    heads: int | None = None
    image_size: Size | None = None
    activation: str | None = None

    def fact(self, name: str, default: Any) -> Any:
        """What the file's words say, else the family's default."""
        value = self.contents.value(name)
        return default if value is None else value

    @property
    def norm_eps(self) -> float:
        return float(self.fact("norm_eps", self.family.norm_eps))

    @property
    def act(self) -> str:
        """The activation in timm's spelling; the caller's word counts most."""
        name = self.activation or str(self.fact("activation", self.family.activation))
        return {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}.get(name, name)


@dataclass(frozen=True)
class Built:
    """A timm class with its arguments, and the tensors that it loads strictly."""

    call: TimmCall
    state: Mapping[str, Tensor]
    heads_from: str
    said: Sentences = ()
    positions: str = ""
    known: Mapping[str, Any] = field(default_factory=dict)  # further fields of EncoderInfo


def shape_of(ask: Ask, state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there with so many axes."""
    if key not in state:
        raise key_error(ask.path, ask.family, (), [key])
    shape = tuple(state[key].shape)
    if len(shape) != axes or 0 in shape:
        why = f"{key} has shape {shape}, not {axes} axes."
        raise refusal(ask.path, "has tensors of unfitting shapes.", why)
    return shape


def patches(ask: Ask, state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """(width, channels, patch) of the patch embedding."""
    width, channels, patch, patch_w = shape_of(ask, state, "patch_embed.proj.weight", 4)
    if patch != patch_w:
        raise refusal(ask.path, "has oblong patches.", f"{patch}x{patch_w} pixels.")
    return width, channels, patch


def arguments_of(ask: Ask, state: Mapping[str, Tensor], grid: Grid, heads: int, hidden: int) -> dict[str, Any]:
    """The arguments that every plain ViT class of timm takes, for a position grid and an MLP of ``hidden`` channels."""
    width, channels, patch = patches(ask, state)
    return {
        "img_size": pixels(grid, patch),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": classes_of(state),
        "embed_dim": width,
        "depth": depth_of(ask, state),
        "num_heads": heads,
        "mlp_ratio": ratio_of(hidden, width),
    }


def classes_of(state: Mapping[str, Tensor], *keys: str) -> int:
    """The rows of the classifier, which lies under the first of ``keys`` that is there; 0 without one."""
    head = next((state[key] for key in keys or ("head.weight",) if key in state), None)
    return 0 if head is None else int(head.shape[0])


def depth_of(ask: Ask, state: Mapping[str, Tensor], stem: str = r"blocks\.(\d+)\.") -> int:
    """How many numbers stand after ``stem``: they must be 0, 1, 2 and so on, before anything is made of them."""
    matches = [match for match in (re.match(stem, key) for key in state) if match]
    found = {match[1] for match in matches}
    missing = {str(number) for number in range(len(found))} - found
    if missing:
        first = matches[0]
        before = first[0][: first.start(1) - first.start()]
        raise key_error(ask.path, ask.family, (), {f"{before}{number}.*" for number in missing})
    return len(found)


def ratio_of(hidden: int, width: int) -> float:
    """An MLP ratio from which timm's ``int(width * ratio)`` makes ``hidden`` again."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def heads_of(ask: Ask, width: int) -> tuple[int, str, Sentences]:
    """(heads, where from, what is assumed): the caller, the words, the arch, the published width; else refused."""
    path, family = ask.path, ask.family
    if ask.heads is not None:
        if ask.heads < 1 or width % ask.heads:
            raise FdlabError(
                f"{ask.heads} heads do not divide the width {width} of {path}.", fix="Check heads=.", code=USAGE
            )
        return ask.heads, "given by the user", (f"heads = {ask.heads}: given by the user",)
    its_own = ask.contents.value("hidden_size") in (None, width)  # else the words are of another network
    for fact in ("heads", "head_width") if its_own else ():
        value = ask.contents.value(fact)
        if isinstance(value, int):
            count, rest = divmod(width, value) if fact == "head_width" else (value, width % value)
            if rest:
                why = f"{value} does not divide the width {width} of the tensors."
                raise refusal(
                    path, f"says what cannot be right: {fact} {value}.", why, "Give heads=, or mend the word."
                )
            return count, ask.contents.said[fact][1], ()
    arch = ask.contents.arch
    each = family.arches.get(arch) if arch else None
    if each and width % each == 0:
        how = f"width/{each} = {width // each}"
        return width // each, f"arch {arch}", (f"heads = {how}: the file's arch is {arch}",)
    if width in family.heads:
        number = family.heads[width]
        how = f"width/64 = {number}" if number * 64 == width else f"{number}"
        said = f"heads = {how}: {family.heads_whose or f'the published {family.name} models'} of width {width}"
        return number, f"published models of width {width}", (said,)
    raise FdlabError(
        f"{path}: the number of attention heads is unknown.",
        f"The file does not hold it, and no published {family.name} model has width {width}.",
        f"Give --heads N, or SOURCE?heads=N, or heads= in Python (width/64 would be {width / 64:g}); a wrong number "
        "loads without an error and gives wrong results.",
        code=NOT_UNDERSTOOD,
    )


def heads_in_file(ask: Ask, count: int, where: str) -> tuple[int, str, Sentences]:
    """The head count that a tensor shows; a different ``heads=`` is a mistake."""
    if ask.heads is not None and ask.heads != count:
        raise FdlabError(
            f"{ask.path} has {count} heads, not {ask.heads}.", f"{where} shows it.", "Leave heads= out.", code=USAGE
        )
    return count, where, ()


def grid_of(size: Size, patch: int) -> Grid:
    """The grid of an image size, or an error."""
    height, width = pair(size)
    if height < patch or width < patch or height % patch or width % patch:
        why = f"Both sides must be positive multiples of the patch, {patch}."
        raise FdlabError(f"image_size {height}x{width} does not fit.", why, code=USAGE)
    return height // patch, width // patch


def pixels(grid: Grid, patch: int) -> Size:
    """The image size of a grid: one number where it is square, else (height, width)."""
    height, width = grid[0] * patch, grid[1] * patch
    return height if height == width else (height, width)


def resized(ask: Ask, what: str, old: Grid, new: Grid, relative: bool = False) -> Sentences:
    """The sentence on a position table at another grid; none where nothing changed."""
    if old == new:
        return ()
    family = ask.family
    how = RELATIVE_METHODS[family.resize_relative] if relative else METHODS[family.resize]
    whose = "our choice, the authors have none" if family.resize_is_ours else f"the way of {family.name}"
    return (f"{what} {old[0]}x{old[1]} -> {new[0]}x{new[1]}: {how} ({whose})",)


class KeysDiffer(FdlabError):
    """A network whose keys are not exactly its family's: ``extra`` ones and ``missing`` ones."""

    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    whole: bool = False  # all keys were compared, not only those up to the first that a builder missed


def key_error(path: Path, family: Family, extra: Any, missing: Any, *, whole: bool = False) -> KeysDiffer:
    """The error of a network whose keys are not exactly its family's."""
    parts = [
        f"{label}: {', '.join(sorted(keys)[:8])}{' ...' if len(keys) > 8 else ''}"
        for label, keys in (("not known", extra), ("missing", missing))
        if keys
    ]
    error = KeysDiffer(
        f"{path} does not fit its nearest family, {family.name}.",
        f"Keys {'; '.join(parts)}.",
        "The file is of another family or was changed; fdlab never loads a part of a network.",
        code=NOT_UNDERSTOOD,
    )
    error.extra, error.missing, error.whole = tuple(extra), tuple(missing), whole
    return error
