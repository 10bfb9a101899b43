"""EVA-02: rotary positions beside an absolute table, gated MLPs; pre-trained and fine-tuned."""

from __future__ import annotations

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.clip import MEAN, STD
from fdlab.checkpoints.families.family import EMA, MODEL, PATCHES, Family, Network, is_masked

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}


def _matches(network: Network, contents: Contents) -> bool:
    gated = "blocks.0.mlp.w1.weight" in network or "blocks.0.mlp.w12.weight" in network
    return PATCHES in network and "pos_embed" in network and gated and "blocks.0.attn.q_bias" in network


def _separate_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where q, k, v are separate layers, their biases belong to them."""
    if "blocks.0.attn.q_proj.weight" not in state:
        return state
    return {
        key.replace(".attn.q_bias", ".attn.q_proj.bias").replace(".attn.v_bias", ".attn.v_proj.bias"): value
        for key, value in state.items()
    }


FAMILIES = (
    Family(
        name="eva02",
        title="EVA-02 (rotary positions, gated MLP)",
        kind="mim",
        encoders={"model": MODEL, "ema": EMA},
        default=("model", "ema"),
        matches=_matches,
        proof=is_masked,
        builder="eva",
        leftovers=(r"mask_token", r"lm_head\..*", r"rope\.freqs_sin", r"blocks\.\d+\.attn\.rope\..*"),
        renames=(
            (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w1\.", ".mlp.fc1_g."),
            (r"\.mlp\.w2\.", ".mlp.fc1_x."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
        convert=_separate_biases,
        heads=_HEADS,
        mean=MEAN,
        std=STD,
        timm_names={
            (192, 12, 14): "eva02_tiny_patch14_224.mim_in22k",
            (384, 12, 14): "eva02_small_patch14_224.mim_in22k",
            (768, 12, 14): "eva02_base_patch14_224.mim_in22k",
            (1024, 24, 14): "eva02_large_patch14_224.mim_m38m",
        },
    ),
)
