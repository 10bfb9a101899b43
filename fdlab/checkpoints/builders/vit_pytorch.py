"""vit-pytorch's ViT: norms around the patch embedding, and heads of a width of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built, Sentences
from fdlab.checkpoints.builders.vit import NO_NORM, grids, prefix_rows
from fdlab.checkpoints.families.family import is_square
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.positions import resize_absolute
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

CLASS = "fdlab.encoders.published.VitPytorch"
DEFAULT_WIDTH = 64  # dim_head of vit-pytorch
_EMBED = "to_patch_embedding."


def build_vit_pytorch(ask: Ask, state: dict[str, Tensor]) -> Built:
    """Sizes from the tensors; the head width is the caller's or the code's default."""
    state, normed = _patches(ask, state)
    patch = built.patches(ask, state)[2]
    inner = built.shape_of(ask, state, "blocks.0.attn.qkv.weight", 2)[0] // 3
    heads, where, said = _heads(ask, inner)
    old, new, rows = grids(ask, state, patch, prefix_rows(state))
    table = resize_absolute(state["pos_embed"], old, new, prefix=rows, method=ask.family.resize)
    hidden = built.shape_of(ask, state, "blocks.0.mlp.fc1.weight", 2)[0]
    has_norm, pooled_norm = "norm.weight" in state, "fc_norm.weight" in state
    has_class = "cls_token" in state
    pool = "" if not built.classes_of(state) else "token" if has_class else "avg"
    kwargs: dict[str, Any] = {
        **built.arguments_of(ask, state, new, heads, hidden),
        "head_width": inner // heads,
        "patch_norms": normed,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "class_token": has_class,
        "global_pool": pool,
        "fc_norm": pooled_norm,
        "final_norm": has_norm or pooled_norm,
    }
    if ask.act != "gelu":
        kwargs["act_layer"] = ask.act
    said = (*said, *built.resized(ask, "position table", old, new), *(() if has_norm else (NO_NORM,)))
    return Built(TimmCall(CLASS, kwargs, ask.norm_eps), {**state, "pos_embed": table}, where, said)


def _patches(ask: Ask, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """(the state with the patch embedding as a convolution, whether norms stand around it)."""
    normed = f"{_EMBED}2.weight" in state
    linear = f"{_EMBED}{2 if normed else 1}"
    width, pixels = built.shape_of(ask, state, f"{linear}.weight", 2)
    channels = next((count for count in (3, 1, 4) if pixels % count == 0 and is_square(pixels // count)), 0)
    if not channels:
        why = f"{pixels} numbers a patch are no square of 3, 1 or 4 channels."
        raise refusal(ask.path, "has oblong patches, or many channels.", why)
    side = round((pixels // channels) ** 0.5)
    kernel = state[f"{linear}.weight"].reshape(width, side, side, channels).permute(0, 3, 1, 2).contiguous()
    names = {f"{linear}.bias": "patch_embed.proj.bias"}
    for kind in ("weight", "bias"):
        names |= {f"{_EMBED}1.{kind}": f"patch_embed.pixel_norm.{kind}"} if normed else {}
        names[f"{_EMBED}3.{kind}"] = f"patch_embed.norm.{kind}"
    moved = {names.get(key, key): value for key, value in state.items() if key != f"{linear}.weight"}
    return {**moved, "patch_embed.proj.weight": kernel}, normed


def _heads(ask: Ask, inner: int) -> tuple[int, str, Sentences]:
    """(heads, where from, what is assumed) of ``inner`` = heads * head width channels."""
    if ask.heads is not None:
        if ask.heads < 1 or inner % ask.heads:
            what = f"{ask.heads} heads do not divide the {inner} channels of {ask.path}'s queries."
            raise FdlabError(what, fix="Check heads=.", code=USAGE)
        return ask.heads, "given by the user", (f"heads = {ask.heads}: given by the user",)
    if inner % DEFAULT_WIDTH == 0:
        count = inner // DEFAULT_WIDTH
        return (
            count,
            "vit-pytorch's default",
            (f"heads = {inner}/{DEFAULT_WIDTH} = {count}: vit-pytorch's default width",),
        )
    raise FdlabError(
        f"{ask.path}: the number of attention heads is unknown.",
        f"The file does not hold it, and {inner} channels are no multiple of vit-pytorch's default, {DEFAULT_WIDTH}.",
        "Give heads=; a wrong number loads without an error and gives wrong results.",
        code=NOT_UNDERSTOOD,
    )
