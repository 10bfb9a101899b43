"""MoCo v3 and I-JEPA: training files with several networks on a fixed sin-cos table."""

from __future__ import annotations

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import (
    MODEL,
    PATCHES,
    Family,
    Network,
    Place,
    class_row_is_zero,
    is_plain_vit,
    under,
)
from fdlab.encoders.positions import sincos_table


def column_first(table: Tensor) -> bool:
    """MAE's table (rows, C) starts with the column's channels, MoCo v3's (otherwise the same) with the row's."""
    rows, width = table.shape
    side = round(rows**0.5)
    if side * side != rows or width % 4:
        return True  # the order cannot be told
    own = sincos_table((side, side), width)
    other = own.view(side, side, width).transpose(0, 1).reshape(rows, width)
    return bool((table.float() - own).square().sum() <= (table.float() - other).square().sum())


def _matches_moco(network: Network, contents: Contents) -> bool:
    if not is_plain_vit(network):
        return False
    pretraining = any(key.startswith("/momentum_encoder.") for key in network)
    return pretraining or (class_row_is_zero(network) and not column_first(network["pos_embed"][0, 1:]))


def _matches_ijepa(network: Network, contents: Contents) -> bool:
    several = bool({"predictor", "target_encoder"} & set(contents.tables))
    return several and "cls_token" not in network and {"pos_embed", PATCHES} <= set(network)


MOCO_V3 = Family(
    name="mocov3",
    title="MoCo v3 (plain ViT with a fixed sin-cos table, rows first)",
    kind="contrastive",
    encoders={
        "base_encoder": under("base_encoder."),
        "momentum_encoder": under("momentum_encoder."),
        "model": MODEL,
    },
    default=("base_encoder", "model"),
    matches=_matches_moco,
    leftovers=(r"head\.\d+\..*", r"/predictor\..*"),
    heads={384: 12, 768: 12},  # 32 channels a head in the small one, on purpose
    arches={"vit_small": 32, "vit_base": 64},
    resize_is_ours=True,
    fixed_positions=True,
)
I_JEPA = Family(
    name="ijepa",
    title="I-JEPA (plain ViT without a class token)",
    kind="mim",
    encoders={"target_encoder": (Place("target_encoder"),), "encoder": (Place("encoder"),)},
    default=("target_encoder", "encoder"),
    matches=_matches_ijepa,
    heads={192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16},
    resize_is_ours=True,
    fixed_positions=True,
    timm_names={
        (1280, 32, 14): "vit_huge_patch14_gap_224.in1k_ijepa",
        (1280, 32, 16): "vit_huge_patch16_gap_448.in1k_ijepa",
        (1408, 40, 16): "vit_giant_patch16_gap_224.in22k_ijepa",
    },
)
FAMILIES = (I_JEPA, MOCO_V3)
