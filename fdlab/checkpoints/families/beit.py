"""BEiT, BEiT v2, data2vec-vision, and fine-tuned SimMIM and feature-distillation ViTs: one layout."""

from __future__ import annotations

import re
from dataclasses import replace

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import EMA, HALF, MODEL, PATCHES, Family, Network, all_of, is_masked, under

SHARED = "rel_pos_bias.relative_position_bias_table"
LEFTOVERS = (
    r"mask_token",
    r"lm_head\..*",
    r"cls_pt_(layers|norm|lm_head)\..*",
    r".*relative_position_index",
    r".*attn\.k_bias",  # softmax cancels it
)


def is_beit(network: Network) -> bool:
    """A fused qkv weight whose bias is q and v only, or a relative table beside a ViT block."""
    split = "blocks.0.attn.q_bias" in network and "blocks.0.attn.qkv.weight" in network
    tabled = SHARED in network or "blocks.0.attn.relative_position_bias_table" in network
    return PATCHES in network and (split or tabled) and "blocks.0.mlp.fc1.weight" in network


def _matches_data2vec(network: Network, contents: Contents) -> bool:
    if not is_beit(network) or SHARED not in network:
        return False
    head = network.get("lm_head.weight")
    square = head is not None and head.shape[0] == head.shape[-1]
    return square or "fc_norm.weight" in network


def _matches_beit_v2(network: Network, contents: Contents) -> bool:
    return is_beit(network) and any(key.startswith("cls_pt_") for key in network)


def _matches_finetuned_here(network: Network, contents: Contents) -> bool:
    return is_beit(network) and "training" in contents.said


def _matches_dense(network: Network, contents: Contents) -> bool:
    return is_beit(network) and any(re.match(r"fpn\d\.|/decode_head\.|/roi_head", key) for key in network)


def _matches_finetuned(network: Network, contents: Contents) -> bool:
    return is_beit(network) and "head.weight" in network


BEIT_V2 = Family(
    name="beitv2",
    title="BEiT v2, pre-trained",
    kind="mim",
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=_matches_beit_v2,
    proof=is_masked,
    builder="beit",
    leftovers=LEFTOVERS,
    heads={768: 12, 1024: 16},
)
FAMILIES = (
    replace(
        BEIT_V2,
        name="data2vec_vision",
        title="data2vec-vision (BEiT's block, one shared relative table)",
        matches=_matches_data2vec,
        notes=("data2vec: the published fine-tuning of ViT-B used mean and std 0.5, pre-training ImageNet's",),
    ),
    BEIT_V2,
    replace(
        BEIT_V2,
        name="dense_beit",
        title="BEiT, the backbone of a segmentation or detection file",
        kind="unknown",
        encoders={"backbone": under("backbone.")},
        default=("backbone",),
        matches=_matches_dense,
        leftovers=(*LEFTOVERS, r"fpn\d\..*", r"/(decode_head|auxiliary_head|neck|rpn_head|roi_head)\..*"),
        notes=("mean and std are those of the segmentation recipe, which its pre-training need not have had",),
    ),
    replace(
        BEIT_V2,
        name="simmim_finetuned",
        title="a fine-tuned SimMIM or feature-distillation ViT (BEiT's block; the two look the same)",
        kind="unknown",
        matches=_matches_finetuned_here,
    ),
    replace(
        BEIT_V2,
        name="beit_finetuned",
        kind="unknown",
        title="a fine-tuned BEiT or BEiT v2 (they look the same, as does any other training of their network)",
        matches=_matches_finetuned,
        notes=("mean and std: BEiT's own 22k files use 0.5, BEiT v2 ImageNet's; the file does not say which it is",),
        timm_names={
            (768, 12, 16): "beit_base_patch16_224.in22k_ft_in22k",
            (1024, 24, 16): "beit_large_patch16_224.in22k_ft_in22k",
        },
    ),
    replace(
        BEIT_V2,
        name="beit",
        title="BEiT, pre-trained (shared relative table)",
        matches=all_of(is_beit),
        mean=HALF,
        std=HALF,
    ),
)
