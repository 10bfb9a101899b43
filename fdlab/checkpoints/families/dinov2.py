"""DINOv2 (plain, registers, SwiGLU, training output with chunked blocks) and DINOv3."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import MODEL, PATCHES, Family, Network, Place, under

_LEFTOVERS = (
    r"mask_token",
    r"/(dino|ibot)_head\..*",
    r"/(student|teacher|model_ema|gram_teacher)\..*",
    r"/\w+_loss\.center",
)
# Chunked training files number blocks as chunk.block, and block is already the absolute place.
_RENAMES = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"^register_tokens$", "reg_token"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_ENCODERS = {
    "ema": (Place("model_ema", ("backbone.", "")), *under("model_ema.backbone.")),
    "teacher": (Place("teacher", ("backbone.", "")), *under("teacher.backbone.", "teacher.")),
    "student": (Place("student", ("backbone.", "")), *under("student.backbone.", "student.")),
    "backbone": tuple(Place(place.table, ("backbone.", "")) for place in MODEL),
}
_NAMES = {(384, 12): "small", (768, 12): "base", (1024, 24): "large", (1536, 40): "giant"}


def _is_dinov2(network: Network) -> bool:
    stems = ("blocks.0.", "blocks.0.0.")
    scaled = any(f"{stem}ls1.gamma" in network for stem in stems)
    swiglu = any(f"{stem}mlp.w12.weight" in network for stem in stems)
    fused = any(f"{stem}attn.qkv.bias" in network for stem in stems)
    return PATCHES in network and "pos_embed" in network and fused and (swiglu or (scaled and "mask_token" in network))


def _matches_plain(network: Network, contents: Contents) -> bool:
    return _is_dinov2(network) and "register_tokens" not in network


def _matches_registers(network: Network, contents: Contents) -> bool:
    return "register_tokens" in network and "pos_embed" in network


def fold_class_row(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm adds no position to the class token where there are registers: its row goes into the token."""
    table = state["pos_embed"]
    return {**state, "cls_token": state["cls_token"] + table[:, :1], "pos_embed": table[:, 1:]}


DINOV2 = Family(
    name="dinov2",
    title="DINOv2 (plain ViT with layer scale)",
    kind="contrastive",
    encoders=_ENCODERS,
    default=("ema", "teacher", "backbone", "student"),
    matches=_matches_plain,
    leftovers=_LEFTOVERS,
    renames=_RENAMES,
    heads={384: 6, 768: 12, 1024: 16, 1536: 24},
    resize="offset",
    timm_names={(*size, 14): f"vit_{name}_patch14_dinov2.lvd142m" for size, name in _NAMES.items()},
)
DINOV2_REGISTERS = replace(
    DINOV2,
    title="DINOv2 with registers",
    matches=_matches_registers,
    convert=fold_class_row,
    resize="antialias",
    timm_names={(*size, 14): f"vit_{name}_patch14_reg4_dinov2.lvd142m" for size, name in _NAMES.items()},
)


def _matches_v3(network: Network, contents: Contents) -> bool:
    return (
        PATCHES in network
        and ("storage_tokens" in network or "rope_embed.periods" in network)
        and "pos_embed" not in network
    )


def _split_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fused bias as q and v parts where its k part is zero or masked; else it stays fused.

    The softmax cancels a key bias only without rotation: rotary positions turn it by the key's place.
    """
    split: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("attn.qkv.bias_mask"):
            continue
        if not key.endswith("attn.qkv.bias"):
            split[key] = value
            continue
        stem, mask = key.removesuffix("qkv.bias"), state.get(f"{key}_mask")
        whole = value if mask is None else value * mask
        query, keys, values = whole.chunk(3)
        split |= {key: whole} if keys.any() else {f"{stem}q_bias": query, f"{stem}v_bias": values}
    return _alike(split)


def _alike(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every block's bias fused where one block's is: a class has one form for all."""
    if not any(key.endswith("attn.qkv.bias") for key in state):
        return state
    fused: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("attn.q_bias"):
            other = state[key.replace("q_bias", "v_bias")]
            fused[key.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.zeros_like(value), other])
        elif not key.endswith("attn.v_bias"):
            fused[key] = value
    return fused


DINOV3 = Family(
    name="dinov3",
    title="DINOv3 ViT (rotary positions, registers)",
    kind="contrastive",
    encoders=_ENCODERS,
    default=("ema", "teacher", "backbone", "student"),
    matches=_matches_v3,
    builder="dinov3",
    leftovers=(*_LEFTOVERS, r"local_cls_norm\..*"),
    renames=(
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^storage_tokens$", "reg_token"),
        (r"\.ls([12])\.gamma$", r".gamma_\1"),
        (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    convert=_split_bias,
    heads={384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32},
    norm_eps=1e-5,
    timm_names={
        (384, 12, 16): "vit_small_patch16_dinov3",
        (768, 12, 16): "vit_base_patch16_dinov3",
        (1024, 24, 16): "vit_large_patch16_dinov3",
        (1280, 32, 16): "vit_huge_plus_patch16_dinov3",
        (4096, 40, 16): "vit_7b_patch16_dinov3",
    },
    notes=("DINOv3's layout is taken from public code; no file of the authors was at hand to compare",),
)
FAMILIES = (DINOV3, DINOV2_REGISTERS, DINOV2)
