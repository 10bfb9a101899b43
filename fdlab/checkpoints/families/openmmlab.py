"""OpenMMLab's names: mmpretrain's ViT, mmseg's BEiT, the Swin of mmdet, mmseg and mmpretrain."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.families.beit import LEFTOVERS
from fdlab.checkpoints.families.family import Family, Network, all_of, under
from fdlab.checkpoints.families.joining import last_tap_norm, unfold_order
from fdlab.checkpoints.families.swin import SWIN_V1, SWIN_V2, timm_order_of_v2

MARKER = "patch_embed.projection.weight"
_COMMON = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_VIT_RENAMES = (
    *_COMMON,
    (r"^layers\.", "blocks."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"^(ln1|norm1)\.", "norm."),
    (r"^(pre_norm|ln0)\.", "norm_pre."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.attn\.gamma1\.(weight|gamma)$", ".ls1.gamma"),
    (r"\.ffn\.gamma2\.(weight|gamma)$", ".ls2.gamma"),
    (r"^/head\.(layers\.head|fc|head)\.", "head."),
)
_SWIN_RENAMES = (
    *_COMMON,
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"^/head\.fc\.", "head."),
)
_BESIDE = (r"/(neck|decode_head|auxiliary_head|rpn_head|roi_head|data_preprocessor)\..*", r"/head\..*")
_EPS = "as OpenMMLab's code has them"


def _is_vit(network: Network) -> bool:
    qkv = {"layers.0.attn.qkv.weight", "layers.0.attn.attn.in_proj_weight"} & set(network)
    return bool(qkv) and "layers.0.ffn.layers.0.0.weight" in network


def _has_table(network: Network) -> bool:
    return "layers.0.attn.relative_position_bias_table" in network


def _is_swin(network: Network) -> bool:
    return "stages.0.blocks.0.attn.w_msa.relative_position_bias_table" in network


def _is_swin_v2(network: Network) -> bool:
    return "stages.0.blocks.0.attn.w_msa.logit_scale" in network


def _swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return timm_order(unfold_order(last_tap_norm(state)))


def _swin_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return timm_order_of_v2(unfold_order(last_tap_norm(state)))


VIT = Family(
    name="mmpretrain_vit",
    title="OpenMMLab's ViT",
    kind="unknown",
    encoders={"backbone": under("backbone.", "")},
    default=("backbone",),
    matches=all_of(_is_vit),
    marker=MARKER,
    leftovers=(r"/(neck|decode_head|auxiliary_head|rpn_head|roi_head|data_preprocessor)\..*", r"mask_token"),
    renames=_VIT_RENAMES,
    heads={192: 3, 384: 6, 768: 12, 1024: 16},
    whose=_EPS,
)
_SWIN = replace(
    SWIN_V1,
    name="dense_mm_swin",
    title="OpenMMLab's Swin",
    encoders={"backbone": under("backbone.", "")},
    default=("backbone",),
    matches=all_of(_is_swin),
    marker=MARKER,
    leftovers=_BESIDE,
    renames=_SWIN_RENAMES,
    convert=_swin,
    whose=_EPS,
    timm_names={},
)
FAMILIES = (
    replace(
        VIT,
        name="dense_mmseg_beit",
        title="OpenMMLab's BEiT",
        kind="unknown",
        matches=all_of(_is_vit, _has_table),
        builder="beit",
        leftovers=(*LEFTOVERS, *_BESIDE),
        resize_is_ours=True,
    ),
    VIT,
    replace(
        _SWIN,
        name="mm_swin_v2",
        title="OpenMMLab's Swin V2",
        matches=all_of(_is_swin_v2),
        builder="swin_v2",
        convert=_swin_v2,
        image_size=SWIN_V2.image_size,
    ),
    _SWIN,
)
