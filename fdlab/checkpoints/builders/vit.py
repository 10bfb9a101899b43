"""Plain ViTs: timm's ``VisionTransformer`` and ``VisionTransformerDistilled``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built
from fdlab.checkpoints.families.family import is_square
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.positions import Grid, resize_absolute, square_grid

PLAIN = "timm.models.vision_transformer.VisionTransformer"
ONE_HEAD = "fdlab.encoders.published.OneHeadDistilled"
NO_NORM = "no final norm in the file: the tokens are the last block's output"
DISTILLED = "timm.models.deit.VisionTransformerDistilled"


def build_vit(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Sizes, MLP kind, layer scale, registers and pooling from the tensors; the table at the wanted size."""
    width, _, patch = built.patches(ask, state)
    state = dict(state)
    noted = state.pop(built.HEADS, None)
    if noted is not None:
        heads, heads_from, said = built.heads_in_file(ask, int(noted), "shape of the query's tensor")
    else:
        heads, heads_from, said = built.heads_of(ask, width)
    apart = "blocks.0.mlp.fc1_g.weight" in state
    first = "fc1_g" if apart else "fc1"
    fc1, fc2 = (built.shape_of(ask, state, f"blocks.0.mlp.{name}.weight", 2) for name in (first, "fc2"))
    gated = fc1[0] == 2 * fc2[1]
    old, new, rows = grids(ask, state, patch, prefix_rows(state))
    table = resize_absolute(state["pos_embed"], old, new, prefix=rows, method=ask.family.resize)
    kwargs: dict[str, Any] = {
        **built.arguments_of(ask, state, new, heads, fc1[0]),
        **pooling(state),
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "class_token": "cls_token" in state,
    }
    if "blocks.0.attn.proj.bias" not in state:
        kwargs["proj_bias"] = False
    if "blocks.0.norm1.bias" not in state and "blocks.0.norm1.weight" in state:
        kwargs["norm_layer"] = "RmsNorm"
        if "patch_embed.norm.weight" in state:
            kwargs["embed_norm_layer"] = "RmsNorm"
    if not any(key.startswith(("norm.", "fc_norm.")) for key in state):
        if "norm_pre.weight" in state:
            what = "has a norm before its blocks and none after them, as timm's Perception Encoder (vit_pe_...) has."
            why = "That network turns queries and keys by rotary positions that are in no tensor of this file."
            raise refusal(ask.path, what, why, "Give its hub folder with config.json, or timm:NAME.")
        kwargs["final_norm"] = False
        said = (*said, NO_NORM)
    if "blocks.0.ls1.gamma" in state:
        kwargs["init_values"] = 1e-5  # any number: the values are in the file
    if "norm_pre.weight" in state:
        kwargs["pre_norm"] = True  # the patch embedding has no bias then
    if "reg_token" in state:
        kwargs["reg_tokens"] = state["reg_token"].shape[1]
    if rows == 0 and ("cls_token" in state or "reg_token" in state):
        kwargs["no_embed_class"] = True
    if apart:
        kwargs |= {"mlp_layer": "SwiGLU", "act_layer": "silu"}
    elif gated:
        kwargs |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    elif ask.act != "gelu":
        kwargs["act_layer"] = ask.act
    path = PLAIN
    if "dist_token" in state:
        path = ONE_HEAD if "head.weight" in state and "head_dist.weight" not in state else DISTILLED
    call = TimmCall(path, kwargs, ask.norm_eps)
    said = (*said, *built.resized(ask, "position table", old, new))
    return Built(call, {**state, "pos_embed": table}, heads_from, said)


def pooling(state: dict[str, Tensor]) -> dict[str, Any]:
    """Where the file holds a classifier: over the class token, or over the mean with its own norm."""
    if "fc_norm.weight" in state:
        return {"global_pool": "avg"}
    if "dist_token" in state:
        return {"global_pool": "token"}
    pool = ("token" if "cls_token" in state else "avg") if built.classes_of(state) else ""
    return {"global_pool": pool, "fc_norm": False}


def prefix_rows(state: dict[str, Tensor]) -> tuple[int, ...]:
    """How many rows of the table may belong to prefix tokens: all of them, or none."""
    tokens = int("cls_token" in state) + int("dist_token" in state)
    if "reg_token" in state:
        return (0, tokens + state["reg_token"].shape[1])
    return (tokens, 0) if tokens == 1 else (tokens,)


def grids(ask: Ask, state: dict[str, Tensor], patch: int, choices: tuple[int, ...]) -> tuple[Grid, Grid, int]:
    """(grid of the table, grid wanted, prefix rows): square, or the oblong shape that the caller gives."""
    rows = built.shape_of(ask, state, "pos_embed", 3)[1]
    new = built.grid_of(ask.image_size, patch) if ask.image_size is not None else None
    for prefix in choices:
        if is_square(rows - prefix):
            side = square_grid(rows - prefix, what=str(ask.path))
            return side, new or side, prefix
    for prefix in choices:
        if new is not None and new[0] * new[1] == rows - prefix:
            return new, new, prefix
    square_grid(rows - choices[0], what=str(ask.path))  # raises: the shape is not in the file
    raise AssertionError
