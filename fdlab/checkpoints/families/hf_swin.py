"""Hugging Face's Swin and Swin V2: the model, masked modelling, classifiers, and the backbone of UPerNet."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.families.family import Family, Network, all_of, is_masked, under
from fdlab.checkpoints.families.joining import join, last_tap_norm
from fdlab.checkpoints.families.swin import SWIN_V1, SWIN_V2

MARKER = "embeddings.patch_embeddings.projection.weight"
_ATTENTION = "encoder.layers.0.blocks.0.attention."
_TABLE = "relative_position_bias_table"
_RENAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.", "layers."),
    (r"\.continuous_position_bias_mlp\.", ".cpb_mlp."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(self\.)?", ".attn."),
    (r"\.layernorm_before\.", ".norm1."),  # of Swin V2: after the attention, under this name
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^/?hidden_states_norms\.stage(\d+)\.", r"norm\1."),
    (r"^/?classifier\.", "head."),
)


def _is_swin(network: Network) -> bool:
    saved, in_memory = f"{_ATTENTION}self.{_TABLE}", f"{_ATTENTION}relative_position_bias.{_TABLE}"
    return saved in network or in_memory in network


def _is_swin_v2(network: Network) -> bool:
    return f"{_ATTENTION}self.logit_scale" in network or f"{_ATTENTION}logit_scale" in network


def _convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return timm_order(last_tap_norm(join(state)))


SWIN: Family = replace(
    SWIN_V1,
    name="hf_swin",
    title="Hugging Face Swin",
    kind="mim",
    proof=is_masked,
    encoders={"model": under("swin.", "backbone.", "")},
    default=("model",),
    matches=all_of(_is_swin),
    marker=MARKER,
    leftovers=(r".*mask_token", r"/(decoder|decode_head|auxiliary_head)\..*", r"swin\.layernorm\..*"),
    renames=_RENAMES,
    convert=_convert,
    timm_names={},
)
FAMILIES = (
    replace(
        SWIN,
        name="hf_swinv2",
        title="Hugging Face Swin V2",
        encoders={"model": under("swinv2.", "backbone.", "")},
        matches=all_of(_is_swin_v2),
        builder="swin_v2",
        image_size=SWIN_V2.image_size,
        resize_relative=SWIN_V2.resize_relative,
    ),
    SWIN,
)
