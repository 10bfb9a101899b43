"""Swin V1 and V2, and EsViT's Swin: the authors' own files, and bare tables under timm's keys."""

from __future__ import annotations

import re

from torch import Tensor

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import EMA, MODEL, PATCHES, Family, Network, Place

RENAMES = ((r"\.rpe_mlp\.", ".cpb_mlp."),)  # SimMIM's and the distillation code's older name
_SHARED = re.compile(r"layers\.(\d+)\.rel_pos_bias\.(.*)")


def is_swin_v2(network: Network) -> bool:
    """Cosine attention has a learned logit scale."""
    return PATCHES in network and "layers.0.blocks.0.attn.logit_scale" in network


def is_swin(network: Network) -> bool:
    """Stages of blocks with a bias table each."""
    return PATCHES in network and "layers.0.blocks.0.attn.relative_position_bias_table" in network


def spread_shared_bias(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A bias network of a whole stage becomes every block's own: the same function."""
    spread = {key: value for key, value in state.items() if not _SHARED.fullmatch(key)}
    for key, value in state.items():
        match = _SHARED.fullmatch(key)
        if match:
            stem = rf"layers\.{match[1]}\.blocks\.(\d+)\."
            blocks = {found[1] for found in (re.match(stem, other) for other in state) if found}
            name = match[2].removeprefix("attn.")
            spread |= {f"layers.{match[1]}.blocks.{block}.attn.{name}": value for block in blocks}
    return spread


def _matches_esvit(network: Network, contents: Contents) -> bool:
    headed = any(re.match(r"/?head(_dense)?\.(mlp|last_layer)", key) for key in network)
    return is_swin(network) and (headed or {"teacher", "student"} <= set(contents.tables))


def _matches_v2(network: Network, contents: Contents) -> bool:
    return is_swin_v2(network)


def _matches_v1(network: Network, contents: Contents) -> bool:
    return is_swin(network)


_SIZES = {"tiny": (96, 12), "small": (96, 24), "base": (128, 24), "large": (192, 24)}

ESVIT = Family(
    name="esvit_swin",
    title="EsViT's Swin, self-distilled (student and teacher)",
    kind="contrastive",
    encoders={
        "teacher": (Place("teacher", ("backbone.", "")),),
        "student": (Place("student", ("backbone.", "")),),
        "model": MODEL,
    },
    default=("teacher", "model", "student"),
    matches=_matches_esvit,
    builder="swin",
    leftovers=(r"/?head(_dense)?\.(mlp|last_layer)\..*", r"/?head_dense\..*"),
    convert=timm_order,
    norm_eps=1e-6,
    resize_relative="bicubic",
    image_size={7: 224, 14: 224},
)
SWIN_V2 = Family(
    name="swin_v2",
    title="Swin V2",
    kind="supervised",
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=_matches_v2,
    builder="swin_v2",
    renames=RENAMES,
    convert=lambda state: timm_order(spread_shared_bias(state)),
    norm_eps=1e-5,
    image_size={8: 256, 16: 256, 12: 192, 24: 384},
)
SWIN_V1 = Family(
    name="swin_v1",
    title="Swin V1",
    kind="supervised",
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=_matches_v1,
    builder="swin",
    convert=timm_order,
    norm_eps=1e-5,
    resize_relative="bicubic",
    image_size={7: 224, 12: 384},
    timm_names={(*size, 4): f"swin_{name}_patch4_window7_224" for name, size in _SIZES.items()},
)
FAMILIES = (ESVIT, SWIN_V2, SWIN_V1)
