"""Hierarchical windowed models: timm's ``SwinTransformer`` and ``SwinTransformerV2``.

Authors count the patch merging to the end of a stage, timm to the start of the next. Neither stores
the image size; it follows from a shift mask, from a stage smaller than its window, or from the words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built, Sentences
from fdlab.checkpoints.builders.vit import NO_NORM
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.positions import RELATIVE_METHODS, Grid, resize_relative
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

SWIN = "timm.models.swin_transformer.SwinTransformer"
SWIN_V2 = "timm.models.swin_transformer_v2.SwinTransformerV2"
WITHOUT_NORM = {
    SWIN: "fdlab.encoders.published.SwinTransformerWithoutNorm",
    SWIN_V2: "fdlab.encoders.published.SwinTransformerV2WithoutNorm",
}
SWIN_V2_G = "fdlab.encoders.swin_v2_g.SwinTransformerV2G"
TABLE = "relative_position_bias_table"
MASK, COORDS, INDEX = "attn_mask", "relative_coords_table", "relative_position_index"


@dataclass(frozen=True)
class _Stage:
    """One stage as the file shows it: blocks, heads, window side, and its grid where a mask tells."""

    depth: int
    heads: int
    window: int
    grid: Grid | None = None


def build_swin(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Swin V1: a bias table in every block."""
    stages = _stages(ask, state, v2=False)
    grid, said = _grid(ask, state, stages)
    windows, wanted = _windows(stages, grid)
    state, more = _resize_tables(ask, state, stages, wanted)
    return _finish(ask, state, stages, grid, windows, SWIN, {}, "columns of the bias tables", (*said, *more))


def build_swin_v2(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Swin V2: the bias comes from a small network over log-spaced offsets, scaled by the pre-training window."""
    stages = _stages(ask, state, v2=True)
    grid, said = _grid(ask, state, stages)
    windows, _ = _windows(stages, grid)
    pretrained, more = _pretrained_windows(ask, state, stages)
    extra: dict[str, Any] = {"pretrained_window_sizes": pretrained}
    if ask.act != "gelu":
        extra["act_layer"] = ask.act
    norms = {"end_norms": _places(state, r"enorm"), "mlp_norms": _places(state, r"mlp\.norm")}
    path = SWIN_V2_G if any(norms.values()) else SWIN_V2
    if path == SWIN_V2_G:
        extra |= norms
        more = (*more, "the giant model's extra norms (enorm, mlp.norm): a subclass of timm's class")
    built = _finish(ask, state, stages, grid, windows, path, extra, "length of logit_scale", (*said, *more))
    return replace(built, positions=f"pre-training windows {', '.join(map(str, pretrained))}")


def _places(state: Mapping[str, Tensor], norm: str) -> tuple[tuple[int, int], ...]:
    """(stage, block) of the blocks that have this norm of SwinV2-G."""
    found = (re.match(rf"layers\.(\d+)\.blocks\.(\d+)\.{norm}\.weight$", key) for key in state)
    return tuple(sorted((int(match[1]), int(match[2])) for match in found if match))


def _stages(ask: Ask, state: Mapping[str, Tensor], *, v2: bool) -> list[_Stage]:
    stages = []
    for number in range(built.depth_of(ask, state, r"layers\.(\d+)\.blocks")):
        stem = f"layers.{number}.blocks"
        depth = built.depth_of(ask, state, rf"layers\.{number}\.blocks\.(\d+)\.")
        if v2:
            heads = built.shape_of(ask, state, f"{stem}.0.attn.logit_scale", 3)[0]
            coords, index = state.get(f"{stem}.0.attn.{COORDS}"), state.get(f"{stem}.0.attn.{INDEX}")
            window = coords.shape[1] // 2 + 1 if coords is not None else 0
            window = window or (round(index.shape[0] ** 0.5) if index is not None else 0)
            said = ask.contents.value("window_size")
            window = window or (said if isinstance(said, int) else 0)
        else:
            rows, heads = built.shape_of(ask, state, f"{stem}.0.attn.{TABLE}", 2)
            window = (round(rows**0.5) + 1) // 2
            if (2 * window - 1) ** 2 != rows:
                why = f"A bias table of {rows} rows is not (2w-1)^2."
                raise refusal(ask.path, "has oblong windows.", why)
        masks = [state[key] for key in (f"{stem}.{block}.{MASK}" for block in range(depth)) if key in state]
        grid = None
        if masks:
            side = round((masks[0].shape[0] * masks[0].shape[-1]) ** 0.5)
            grid = (side, side)
            window = window or round(masks[0].shape[-1] ** 0.5)
        stages.append(_Stage(depth, heads, window, grid))
    if any(stage.window < 1 for stage in stages):
        why = "Swin V2 without its buffers does not hold its window; the architecture's name would tell."
        raise FdlabError(
            f"{ask.path}: the window size is unknown.",
            why,
            "Give timm:NAME, or a file with relative_coords_table.",
            code=NOT_UNDERSTOOD,
        )
    return stages


def _grid(ask: Ask, state: Mapping[str, Tensor], stages: list[_Stage]) -> tuple[Grid, Sentences]:
    """The grid of the first stage: wanted, or as a mask, a small stage, the words or publication tell."""
    patch = built.patches(ask, state)[2]
    if ask.image_size is not None:
        return built.grid_of(ask.image_size, patch), ()
    for number, stage in enumerate(stages):
        if stage.grid:
            return (stage.grid[0] << number, stage.grid[1] << number), ()
    for number in range(1, len(stages)):
        if stages[number].window < stages[number - 1].window:  # a window cut to its stage's grid
            side = stages[number].window << number
            return (side, side), (f"image size {side * patch}: stage {number + 1} has a window of its own size",)
    size = ask.contents.value("image_size")
    if isinstance(size, int) and size % patch == 0:
        return built.grid_of(size, patch), (f"image size {size}: {ask.contents.said['image_size'][1]}",)
    window = stages[0].window
    if window in ask.family.image_size:
        size = ask.family.image_size[window]
        return built.grid_of(size, patch), (
            f"image size {size}: the published {ask.family.name} models of window {window}",
        )
    raise FdlabError(
        f"{ask.path}: the image size is unknown.",
        f"Windows of {window} fit many sizes, and the file does not hold one.",
        "Give image_size=.",
        code=NOT_UNDERSTOOD,
    )


def _windows(stages: list[_Stage], grid: Grid) -> tuple[tuple[Grid, ...], tuple[Grid, ...]]:
    """(nominal, effective) window of each stage: a stage not larger than its window is one window."""
    nominal = max(stage.window for stage in stages)
    sides, effective = [], []
    for number in range(len(stages)):
        own = tuple(max(1, -(-side // (1 << number))) for side in grid)
        sides.append((nominal, nominal))
        effective.append((min(nominal, own[0]), min(nominal, own[1])))
    return tuple(sides), tuple(effective)


def _resize_tables(
    ask: Ask, state: dict[str, Tensor], stages: list[_Stage], wanted: tuple[Grid, ...]
) -> tuple[dict[str, Tensor], Sentences]:
    moved, said = dict(state), []
    for key, value in state.items():
        match = re.match(rf"layers\.(\d+)\.blocks\.\d+\.attn\.{TABLE}$", key)
        if match:
            number = int(match[1])
            old = (stages[number].window,) * 2
            moved[key] = resize_relative(value, old, wanted[number], ask.family.resize_relative)
            if old != wanted[number]:
                new = wanted[number]
                how = RELATIVE_METHODS[ask.family.resize_relative]
                said.append(f"window of stage {number + 1} {old[0]}x{old[1]} -> {new[0]}x{new[1]}: {how}")
    return moved, tuple(dict.fromkeys(said))


def _pretrained_windows(
    ask: Ask, state: Mapping[str, Tensor], stages: list[_Stage]
) -> tuple[tuple[int, ...], Sentences]:
    """The window on whose offsets each stage's bias was learned, from the largest log-spaced coordinate M.

    M = log2(8 r + 1) / 3 with r = (window - 1) / (pre-training window - 1).
    """
    found: list[int] = []
    said: Sentences = ()
    for number, stage in enumerate(stages):
        coords = state.get(f"layers.{number}.blocks.0.attn.{COORDS}")
        words = ask.contents.value("pretrained_window_sizes")
        if coords is None and isinstance(words, tuple) and len(words) == len(stages):
            found.append(words[number] or stage.window)
            continue
        if coords is None or stage.window < 2:
            found.append(stage.window)
            said = ("pre-training windows: taken as the file's windows, its coordinates are not there",)
            continue
        largest = float(coords.float().max())
        ratio = (2 ** (3 * largest) - 1) / 8
        found.append(max(1, round(1 + (stage.window - 1) / ratio)))
    return tuple(found), said


def _finish(
    ask: Ask,
    state: dict[str, Tensor],
    stages: list[_Stage],
    grid: Grid,
    windows: tuple[Grid, ...],
    path: str,
    extra: dict[str, Any],
    heads_where: str,
    said: Sentences,
) -> Built:
    width, channels, patch = built.patches(ask, state)
    built.heads_in_file(ask, stages[-1].heads, heads_where)
    if min(grid) < 1 << (len(stages) - 1):
        why = f"{len(stages)} stages need {patch << (len(stages) - 1)} pixels."
        raise FdlabError("The image size is too small for this model.", why, "Give a larger image_size=.", code=USAGE)
    dropped = (MASK, COORDS, INDEX)
    state = {key: value for key, value in state.items() if not key.endswith(dropped)}
    kwargs = {
        "img_size": built.pixels(grid, patch),
        "patch_size": patch,
        "in_chans": channels,
        "num_classes": built.classes_of(state, "head.fc.weight"),
        "embed_dim": width,
        "depths": tuple(stage.depth for stage in stages),
        "num_heads": tuple(stage.heads for stage in stages),
        "window_size": windows,
        "mlp_ratio": built.ratio_of(built.shape_of(ask, state, "layers.0.blocks.0.mlp.fc1.weight", 2)[0], width),
        "drop_path_rate": 0.0,
        **extra,
    }
    if not any(key.startswith("norm.") for key in state):
        path, said = WITHOUT_NORM.get(path, path), (*said, NO_NORM)
    return Built(TimmCall(path, kwargs, ask.norm_eps), state, heads_where, said)


def timm_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Patch merging to the start of the next stage, and the classifier under timm's name."""
    authors = any(key.startswith("layers.0.downsample.") for key in state)
    moved = {}
    for key, value in state.items():
        match = re.match(r"layers\.(\d+)\.downsample\.(.*)", key)
        name = f"layers.{int(match[1]) + 1}.downsample.{match[2]}" if match and authors else key
        moved[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = value
    return moved
