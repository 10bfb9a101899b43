"""ViTs with rotary positions: timm's ``Eva``, for EVA-02 and DINOv3."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fdlab.checkpoints.builders import built
from fdlab.checkpoints.builders.built import Ask, Built, Sentences
from fdlab.checkpoints.builders.vit import grids
from fdlab.checkpoints.unpickle import refusal
from fdlab.encoders.encoder import Size, TimmCall
from fdlab.encoders.positions import Grid, resize_absolute

EVA = "timm.models.eva.Eva"
COS = "rope.freqs_cos"  # (grid rows * columns, channels per head); read here, then dropped
PERIODS = "rope_embed.periods"
PUBLISHED_GRID = 16  # of the pre-trained EVA-02 files: 224 pixels, patch 14


def build_eva02(ask: Ask, state: dict[str, Tensor]) -> Built:
    """EVA-02: absolute table and rotary positions; the unit of the rotation is the pre-training grid."""
    width, _, patch = built.patches(ask, state)
    state = dict(state)
    cos = state.pop(COS, None)
    if cos is not None and cos.ndim == 2 and width % cos.shape[1] == 0:
        heads, where, said = built.heads_in_file(ask, width // cos.shape[1], "channels of rope.freqs_cos")
    else:
        heads, where, said = built.heads_of(ask, width)
    old, new, rows = grids(ask, state, patch, (1,))
    reference, more = _reference(cos, old)
    table = resize_absolute(state["pos_embed"], old, new, prefix=rows, method=ask.family.resize)
    separate = "blocks.0.attn.q_proj.weight" in state
    gate = "blocks.0.mlp.fc1.weight" if "blocks.0.mlp.fc1.weight" in state else None
    hidden = built.shape_of(ask, state, "blocks.0.mlp.fc2.weight", 2)[1]
    kwargs: dict[str, Any] = {
        **built.arguments_of(ask, state, new, heads, hidden),
        **_pooling(state),
        "swiglu_mlp": True,
        "scale_mlp": "blocks.0.mlp.norm.weight" in state,
        "swiglu_align_to": 1 if "blocks.0.mlp.fc1_g.weight" in state else 0,  # gate and value apart
        "qkv_fused": not separate,
        "use_rot_pos_emb": True,
        "ref_feat_shape": (reference, reference),
    }
    if gate and built.shape_of(ask, state, gate, 2)[0] != 2 * hidden:
        kwargs["swiglu_mlp"] = False
    said = (*said, *more, *built.resized(ask, "position table", old, new))
    positions = f"rotary, unit {reference}x{reference}"
    return Built(TimmCall(EVA, kwargs, ask.norm_eps), {**state, "pos_embed": table}, where, said, positions)


def _pooling(state: dict[str, Tensor]) -> dict[str, Any]:
    if "fc_norm.weight" in state:
        return {"global_pool": "avg", "use_fc_norm": True}
    return {"global_pool": "token" if built.classes_of(state) else "", "use_fc_norm": False}


def _reference(cos: Tensor | None, grid: Grid) -> tuple[int, Sentences]:
    """The grid on which one step is one unit: cos of the first frequency (1) at row 1 is cos(reference / rows).

    Half-precision tables give it to about 0.01, hence the rounding. A single row holds no step.
    """
    if cos is None or grid[0] < 2 or cos.shape[0] != grid[0] * grid[1]:
        return PUBLISHED_GRID, (f"rotary unit {PUBLISHED_GRID}x{PUBLISHED_GRID}: the published pre-training grid",)
    step = math.acos(max(-1.0, min(1.0, float(cos[grid[1], 0]))))
    return max(1, round(step * grid[0])), ()


def build_dinov3(ask: Ask, state: dict[str, Tensor]) -> Built:
    """DINOv3: rotary positions on centred coordinates in [-1, 1], no table, registers after the class token."""
    width, _, patch = built.patches(ask, state)
    state = dict(state)
    periods = state.pop(PERIODS, None)
    temperature: float = ask.fact("rope_temperature", 100.0)
    if periods is not None and periods.ndim == 1 and width % (4 * periods.shape[0]) == 0:
        heads, where, said = built.heads_in_file(ask, width // (4 * periods.shape[0]), "length of rope_embed.periods")
        temperature, more = _temperature(ask, periods)
        said = (*said, *more)
    else:
        heads, where, said = built.heads_of(ask, width)
        if "rope_temperature" not in ask.contents.said:
            said = (*said, f"rotary temperature {temperature:g}: not in the file, {ask.family.whose}")
    acts = ("silu", "swish") if "blocks.0.mlp.fc1_g.weight" in state else ("gelu",)
    if ask.fact("activation", acts[0]) not in acts:
        why = f"activation {ask.contents.value('activation')}: timm's class has {acts[0]} here."
        raise refusal(
            ask.path, "has an activation that this layout cannot have here.", why, "Convert it by its own code."
        )
    size: Size = ask.image_size or ask.fact("image_size", 224)
    if ask.image_size is None and "image_size" not in ask.contents.said:
        size -= size % patch  # type: ignore[operator]
        said = (*said, f"image size {size}: not in the file (rotary positions fit any multiple of the patch)")
    hidden = built.shape_of(ask, state, "blocks.0.mlp.fc2.weight", 2)[1]
    gated = "blocks.0.mlp.fc1_g.weight" in state
    kwargs: dict[str, Any] = {
        **built.arguments_of(ask, state, built.grid_of(size, patch), heads, hidden),
        "num_classes": 0,
        "global_pool": "",
        "qkv_bias": "blocks.0.attn.q_bias" in state or "blocks.0.attn.qkv.bias" in state,
        "attn_type": "rope" if "blocks.0.attn.qkv.bias" in state else "eva",  # with a key bias, or without one
        "swiglu_mlp": gated,
        "swiglu_align_to": 1 if gated else 0,  # gate and value as separate layers
        "init_values": 1e-5 if "blocks.0.gamma_1" in state else None,
        "rope_type": "dinov3",
        "rope_temperature": temperature,
        "rope_rotate_half": True,
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "num_reg_tokens": state["reg_token"].shape[1] if "reg_token" in state else 0,
        "use_fc_norm": False,
    }
    call = TimmCall(EVA, kwargs, ask.norm_eps)
    return Built(call, state, where, said, f"rotary, temperature {temperature:g}")


def _temperature(ask: Ask, periods: Tensor) -> tuple[float, Sentences]:
    """(T, what is said) of periods T^(i / count); half precision stores them to 1 %, single to 1e-5.

    Raises:
        FdlabError: code 3, the periods are another sequence (from a smallest and a largest one).
    """
    stored, count = periods.double(), periods.shape[0]
    if count == 1:
        return float(ask.fact("rope_temperature", 100.0)), ()
    found = float(stored[-1] / stored[0]) ** (count / (count - 1))
    loose = 1e-2 if periods.dtype in (torch.bfloat16, torch.float16) or _is_bfloat16(periods) else 1e-4
    for value in (float(round(found)), found):
        wanted = value ** (torch.arange(count, dtype=torch.float64) / count)
        if value > 0 and torch.allclose(stored, wanted, rtol=loose, atol=0):
            rounded = not torch.allclose(stored, wanted, rtol=1e-4, atol=0)
            text = f"rotary periods: stored in half precision; here powers of temperature {value:g} in float32"
            return value, (text,) if rounded else ()
    first, last = float(stored[0]), float(stored[-1])
    raise refusal(
        ask.path,
        "has rotary periods that are no powers of one temperature.",
        f"rope_embed.periods run from {first:.4g} to {last:.4g}, as DINOv3's min_period and max_period make them.",
        "timm's class knows a temperature only; a training with rope base (the default) opens.",
    )


def _is_bfloat16(periods: Tensor) -> bool:
    return torch.equal(periods, periods.bfloat16().to(periods.dtype))
