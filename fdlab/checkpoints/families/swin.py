"""Swin V1 and V2, and EsViT's Swin: the authors' own files, and bare tables under timm's keys."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import EMA, MODEL, PATCHES, Family, Network, Place, all_of, under
from fdlab.checkpoints.families.joining import last_tap_norm

RENAMES = ((r"\.rpe_mlp\.", ".cpb_mlp."),)  # SimMIM's and the distillation code's older name
_SHARED = re.compile(r"layers\.(\d+)\.rel_pos_bias\.(.*)")


def is_swin_v2(network: Network) -> bool:
    """Cosine attention has a learned logit scale."""
    return PATCHES in network and "layers.0.blocks.0.attn.logit_scale" in network


def is_swin(network: Network) -> bool:
    """Stages of blocks with a bias table each."""
    return PATCHES in network and "layers.0.blocks.0.attn.relative_position_bias_table" in network


def timm_order_of_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``timm_order``; a bias network of a whole stage becomes every block's own, which is the same function."""
    spread = {key: value for key, value in state.items() if not _SHARED.fullmatch(key)}
    for key, value in state.items():
        match = _SHARED.fullmatch(key)
        if match:
            stem = rf"layers\.{match[1]}\.blocks\.(\d+)\."
            blocks = {found[1] for found in (re.match(stem, other) for other in state) if found}
            name = match[2].removeprefix("attn.")
            spread |= {f"layers.{match[1]}.blocks.{block}.attn.{name}": value for block in blocks}
    return timm_order(spread)


def _has_tap_norms(network: Network) -> bool:
    return "norm.weight" not in network and any(re.match(r"norm\d+\.weight$", key) for key in network)


def _matches_esvit(network: Network, contents: Contents) -> bool:
    headed = any(re.match(r"/?head(_dense)?\.(mlp|last_layer)", key) for key in network)
    return is_swin(network) and (headed or {"teacher", "student"} <= set(contents.tables))


_SIZES = {"tiny": (96, 12), "small": (96, 24), "base": (128, 24), "large": (192, 24)}

SWIN_V1 = Family(
    name="swin_v1",
    title="Swin V1",
    kind="unknown",  # a fine-tuned SimMIM or feature-distillation Swin has this layout as well
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=all_of(is_swin),
    builder="swin",
    convert=timm_order,
    norm_eps=1e-5,
    resize_relative="bicubic",
    image_size={7: 224, 12: 384},
    timm_names={(*size, 4): f"swin_{name}_patch4_window7_224" for name, size in _SIZES.items()},
)
SWIN_V2 = replace(
    SWIN_V1,
    name="swin_v2",
    title="Swin V2",
    matches=all_of(is_swin_v2),
    builder="swin_v2",
    renames=RENAMES,
    convert=timm_order_of_v2,
    image_size={8: 256, 16: 256, 12: 192, 24: 384},
    timm_names={},
)
ESVIT = replace(
    SWIN_V1,
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
    leftovers=(r"/?head(_dense)?\.(mlp|last_layer)\..*", r"/?head_dense\..*"),
    norm_eps=1e-6,
    image_size={7: 224, 14: 224},
    timm_names={},
)
_HEADS_BESIDE = (r"/(decode_head|auxiliary_head|neck|rpn_head|roi_head)\..*",)
DENSE = replace(
    SWIN_V1,
    name="dense_swin",
    title="Swin, the backbone of a segmentation or detection file of its authors",
    matches=all_of(is_swin, _has_tap_norms),
    leftovers=_HEADS_BESIDE,
    convert=lambda state: timm_order(last_tap_norm(state)),
    encoders={"backbone": under("backbone.")},
    default=("backbone",),
    timm_names={},
)
DENSE_V2 = replace(
    SWIN_V2,
    name="dense_swin_v2",
    title="Swin V2, the backbone of a segmentation or detection file of its authors",
    matches=all_of(is_swin_v2, _has_tap_norms),
    leftovers=_HEADS_BESIDE,
    convert=lambda state: timm_order_of_v2(last_tap_norm(state)),
    encoders={"backbone": under("backbone.")},
    default=("backbone",),
    timm_names={},
)
FAMILIES = (ESVIT, DENSE_V2, DENSE, SWIN_V2, SWIN_V1)
