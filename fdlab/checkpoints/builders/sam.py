"""Plain ViTs with windows and decomposed relative tables: SAM's and ViTDet's, as timm's class without its neck."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built
from fdlab.checkpoints.builders.vit import NO_NORM
from fdlab.checkpoints.families.family import is_square
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.positions import Grid, resize_absolute
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

TRUNK = "fdlab.encoders.published.SamTrunk"


def build_sam(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Windows and grid from the rows of the relative tables (2n - 1), heads from their channels."""
    width, channels, patch = built.patches(ask, state)
    depth = built.depth_of(ask, state)
    sides = [_sides(ask, state, block) for block in range(depth)]
    head_width = built.shape_of(ask, state, "blocks.0.attn.rel_pos_h", 2)[1]
    if width % head_width:
        raise refusal(ask.path, "has tensors of unfitting shapes.", f"{head_width} does not divide the width {width}.")
    heads, where, said = built.heads_in_file(ask, width // head_width, "channels of rel_pos_h")
    own, window = _grid(ask, state, sides)
    new = built.grid_of(ask.image_size, patch) if ask.image_size is not None else own
    everywhere = tuple(block for block, side in enumerate(sides) if side == own and side != (window, window))
    moved = dict(state)
    for block in everywhere if new != own else ():
        for axis, length in zip("hw", new, strict=True):
            key = f"blocks.{block}.attn.rel_pos_{axis}"
            rows = moved[key].T[None]  # linear, as the authors' code reads a table of another length
            moved[key] = functional.interpolate(rows, size=2 * length - 1, mode="linear")[0].T.contiguous()
    moved, more = _positions(ask, moved, own, new)
    hidden = built.shape_of(ask, state, "blocks.0.mlp.fc1.weight", 2)[0]
    kwargs: dict[str, Any] = {
        "img_size": (new[0] * patch, new[1] * patch),
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": built.ratio_of(hidden, width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "use_abs_pos": "pos_embed" in moved,
        "use_rel_pos": True,
        "window_size": window,
        "global_attn_indexes": everywhere,
    }
    positions = f"windows of {window}, blocks {', '.join(map(str, everywhere))} over the whole image" if window else ""
    return Built(TimmCall(TRUNK, kwargs, ask.norm_eps), moved, where, (*said, *more, NO_NORM), positions)


def _sides(ask: Ask, state: dict[str, Tensor], block: int) -> Grid:
    rows = (built.shape_of(ask, state, f"blocks.{block}.attn.rel_pos_{axis}", 2)[0] for axis in "hw")
    height, width = rows
    return (height + 1) // 2, (width + 1) // 2


def _grid(ask: Ask, state: dict[str, Tensor], sides: list[Grid]) -> tuple[Grid, int]:
    """(grid of the image, window or 0): from the position table (SAM), else the larger of two table lengths."""
    table = state.get("pos_embed")
    found = sorted(set(sides))
    if table is not None and table.ndim == 4:
        own = (int(table.shape[1]), int(table.shape[2]))
    elif len(found) == 2:
        own = found[-1]
    elif ask.image_size is not None:
        own = built.grid_of(ask.image_size, built.patches(ask, state)[2])
    else:
        raise FdlabError(
            f"{ask.path}: the image size is unknown.",
            "Every block has a table of one length, so windows and the whole image cannot be distinguished.",
            "Give image_size=.",
            code=NOT_UNDERSTOOD,
        )
    windows = {side for side in found if side != own}
    if len(windows) > 1 or any(side[0] != side[1] for side in windows):
        raise refusal(ask.path, "has windows of several sizes.", f"Its tables are for {sorted(windows)} and {own}.")
    return own, next(iter(windows))[0] if windows else 0


def _positions(ask: Ask, state: dict[str, Tensor], own: Grid, new: Grid) -> tuple[dict[str, Tensor], built.Sentences]:
    """The absolute table as (1, rows, columns, width) at the wanted grid; ViTDet's has a class row that is not used."""
    table = state.get("pos_embed")
    if table is None:
        return state, ()
    width = table.shape[-1]
    if table.ndim == 4:
        old, body = own, table.reshape(1, -1, width)
    else:
        rows = table.shape[1]
        skip = 1 if is_square(rows - 1) else 0
        side = round((rows - skip) ** 0.5)
        old, body = (side, side), table[:, skip:]
    moved = resize_absolute(body, old, new, prefix=0, method=ask.family.resize).reshape(1, *new, width)
    return {**state, "pos_embed": moved}, built.resized(ask, "position table", old, new)
