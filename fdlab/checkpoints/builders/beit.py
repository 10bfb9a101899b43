"""ViTs with relative bias tables: timm's ``Beit``; without a class token, ``VisionTransformerRelPos``."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built, Sentences
from fdlab.checkpoints.builders.vit import NO_NORM
from fdlab.checkpoints.families.family import is_square
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.positions import Grid, resize_absolute, resize_relative, square_grid
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

WITHOUT_NORM = "fdlab.encoders.published.BeitWithoutNorm"
BEIT = "timm.models.beit.Beit"
RELPOS = "timm.models.vision_transformer_relpos.VisionTransformerRelPos"
TABLE = "relative_position_bias_table"
SHARED = f"rel_pos_bias.{TABLE}"
CLASS_ROWS = 3  # class token to patch, patch to class token, class token to itself


def build_beit(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Sizes from the tensors; the tables at the wanted size."""
    width, _, patch = built.patches(ask, state)
    shared = SHARED in state
    own = f"blocks.0.attn.{TABLE}"
    table_key = SHARED if shared else own if own in state else None
    if table_key is None and "pos_embed" not in state:
        raise refusal(ask.path, "holds no positions.", "Neither a relative nor an absolute table.")
    if table_key:
        heads, where, said = built.heads_in_file(
            ask, built.shape_of(ask, state, table_key, 2)[1], "columns of the bias table"
        )
    else:
        heads, where, said = built.heads_of(ask, width)
    has_class = "cls_token" in state
    old, new = _grids(ask, state, table_key, patch, has_class)
    state, more = _resize(ask, state, old, new)
    pool = "avg" if "fc_norm.weight" in state else "token" if "head.weight" in state else ""
    hidden = built.shape_of(ask, state, "blocks.0.mlp.fc1.weight", 2)[0]
    kwargs = {
        **built.arguments_of(ask, state, new, heads, hidden),
        "global_pool": pool,
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "init_values": 0.1 if "blocks.0.gamma_1" in state else None,  # any number: the values are in the file
    }
    if not has_class:
        return _without_class_token(ask, state, kwargs, shared, where, (*said, *more))
    kwargs |= {
        "use_abs_pos_emb": "pos_embed" in state,
        "use_shared_rel_pos_bias": shared,
        "use_rel_pos_bias": own in state,
    }
    bare = not any(key.startswith(("norm.", "fc_norm.")) for key in state)
    path, more = (WITHOUT_NORM, (*more, NO_NORM)) if bare else (BEIT, more)
    return Built(TimmCall(path, kwargs, ask.norm_eps), state, where, (*said, *more))


def _grids(ask: Ask, state: dict[str, Tensor], table_key: str | None, patch: int, has_class: bool) -> tuple[Grid, Grid]:
    """(the tables' grid, the wanted one). An oblong table fits where the caller's size gives its rows."""
    new = built.grid_of(ask.image_size, patch) if ask.image_size is not None else None
    if table_key is None:
        rows = state["pos_embed"].shape[1] - int(has_class)
        old = square_grid(rows, what=str(ask.path)) if is_square(rows) or new is None else new
        return old, new or old
    rows = state[table_key].shape[0] - (CLASS_ROWS if has_class else 0)
    side = round(rows**0.5) if rows > 0 else 0
    if side % 2 and side * side == rows:
        old = ((side + 1) // 2,) * 2
        return old, new or old
    if new and (2 * new[0] - 1) * (2 * new[1] - 1) == rows:
        return new, new
    why = f"{rows} rows of relative offsets are not (2n-1)^2, and the file does not hold their shape."
    raise FdlabError(
        f"{ask.path}: the image size is unknown.", why, "Give image_size=(height, width).", code=NOT_UNDERSTOOD
    )


def _resize(ask: Ask, state: dict[str, Tensor], old: Grid, new: Grid) -> tuple[dict[str, Tensor], Sentences]:
    if old == new:
        return state, ()
    said: Sentences = ()
    moved = dict(state)
    for key, value in state.items():
        if key.endswith(TABLE):
            moved[key] = resize_relative(value, old, new, ask.family.resize_relative)
            said = built.resized(ask, "relative position table", old, new, relative=True)
    if "pos_embed" in state:
        prefix = int("cls_token" in state)
        moved["pos_embed"] = resize_absolute(state["pos_embed"], old, new, prefix=prefix, method=ask.family.resize)
        said = (*said, *built.resized(ask, "position table", old, new))
    return moved, said


def _without_class_token(
    ask: Ask, state: dict[str, Tensor], kwargs: dict[str, Any], shared: bool, where: str, said: Sentences
) -> Built:
    """The same block under timm's other class: one fused bias (its k part zero), layer scale as ls1, ls2."""
    moved: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"\.gamma_([12])$", r".ls\1.gamma", key)
        name = name.replace("rel_pos_bias.", "shared_rel_pos.") if shared else name
        name = name.replace(f"attn.{TABLE}", f"attn.rel_pos.{TABLE}")
        if name.endswith("attn.q_bias"):
            other = state.get(key.replace("q_bias", "v_bias"), value)
            name, value = name.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros_like(value), other])
        if not name.endswith("attn.v_bias"):
            moved[name] = value
    kwargs |= {
        "class_token": False,
        "fc_norm": "fc_norm.weight" in state,
        "rel_pos_type": "bias",
        "shared_rel_pos": shared,
    }
    if kwargs["num_classes"] and not kwargs["fc_norm"]:
        kwargs["global_pool"] = "avg"
    return Built(TimmCall(RELPOS, kwargs, ask.norm_eps), moved, where, said)
