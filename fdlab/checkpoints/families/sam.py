"""SAM's image encoder (published and Hugging Face's) and detectron2's ViTDet: windows, decomposed relative tables."""

from __future__ import annotations

from dataclasses import replace

from fdlab.checkpoints.families.family import Family, Network, all_of, under

_BESIDE = (
    r"/(prompt_encoder|mask_decoder|vision_neck|shared_image_embedding|vision_encoder)\..*",
    r"/(simfp_\d|proposal_generator|roi_heads|bottom_up|simfp)\..*",
    r"/?(pixel_mean|pixel_std)",
    r"neck\..*",
)


def _is_decomposed(network: Network) -> bool:
    return "blocks.0.attn.rel_pos_h" in network and "blocks.0.attn.qkv.weight" in network


def _has_rows(network: Network) -> bool:
    return network["pos_embed"].ndim == 3 if "pos_embed" in network else False


def _is_hf(network: Network) -> bool:
    return "layers.0.attn.rel_pos_h" in network


SAM = Family(
    name="sam",
    title="SAM's image encoder, without its neck",
    kind="unknown",
    encoders={"image_encoder": under("image_encoder.", "")},
    default=("image_encoder",),
    matches=all_of(_is_decomposed),
    builder="sam",
    leftovers=_BESIDE,
    renames=((r"\.mlp\.lin([12])\.", r".mlp.fc\1."),),
    norm_eps=1e-6,
    resize="antialias",
)
FAMILIES = (
    replace(
        SAM,
        name="vitdet",
        title="ViTDet, the backbone of a detectron2 file",
        encoders={"backbone": under("backbone.net.", "net.", "")},
        default=("backbone",),
        matches=all_of(_is_decomposed, _has_rows),
        renames=(),
        resize="size",
    ),
    SAM,
    replace(
        SAM,
        name="hf_sam",
        title="Hugging Face SAM's image encoder, without its neck",
        encoders={"vision_encoder": under("vision_encoder.", "")},
        default=("vision_encoder",),
        matches=all_of(_is_hf),
        marker="patch_embed.projection.weight",
        renames=(
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"\.layer_norm([12])\.", r".norm\1."),
            (r"\.mlp\.lin([12])\.", r".mlp.fc\1."),
        ),
    ),
)
