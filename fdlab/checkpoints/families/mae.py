"""MAE on a fixed sin-cos table: the encoder alone, with its decoder, or fine-tuned; and the small MAE of other code."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import HALF, MODEL, Family, Network, Place, class_row_is_zero, is_plain_vit
from fdlab.checkpoints.families.moco import column_first


def _is_mae(network: Network, contents: Contents) -> bool:
    if not is_plain_vit(network):
        return False
    # Fine-tuning moves the table, so its class row is no longer zero; the norm after pooling remains.
    if "fc_norm.weight" in network and "head.weight" in network and "norm.weight" not in network:
        return "blocks.0.ls1.gamma" not in network
    return any(key.startswith("decoder_") for key in network) or (
        class_row_is_zero(network) and column_first(network["pos_embed"][0, 1:])
    )


def _is_pretrained(network: Network) -> bool:
    """The decoder, or the frozen table that only this pre-training leaves untouched."""
    return any(key.startswith("decoder_") for key in network) or class_row_is_zero(network)


def _is_probe(network: Network, contents: Contents) -> bool:
    normed = "head.0.running_mean" in network and "head.0.weight" not in network
    return is_plain_vit(network) and normed and "head.1.weight" in network


def _is_small(network: Network, contents: Contents) -> bool:
    return "pos_embedding" in network and "transformer.0.attn.qkv.weight" in network


def _unpack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A table (rows, 1, C) for patches only, as (1, rows, C)."""
    return {**state, "pos_embed": state["pos_embed"].transpose(0, 1)}


MAE = Family(
    name="mae",
    title="MAE (plain ViT with a fixed sin-cos table)",
    kind="mim",
    encoders={"encoder": MODEL},
    default=("encoder",),
    matches=_is_mae,
    proof=_is_pretrained,
    leftovers=(r"mask_token", r"decoder_.*"),
    heads={768: 12, 1024: 16, 1280: 16},
    resize="size",
    fixed_positions=True,
    timm_names={
        (768, 12, 16): "vit_base_patch16_224.mae",
        (1024, 24, 16): "vit_large_patch16_224.mae",
        (1280, 32, 14): "vit_huge_patch14_224.mae",
    },
)
# A batch norm without weights before the classifier; people probe encoders of any size with this code.
PROBE = replace(
    MAE,
    title="an encoder in MAE's linear probe",
    matches=_is_probe,
    heads={192: 3, 384: 6, **MAE.heads},
    heads_whose="most plain ViTs",
)
# Packed tokens, a table of patches only, qkv without bias.
SMALL_MAE = Family(
    name="mae_small",
    title="the small MAE of IcarusWizard's code",
    kind="mim",
    encoders={"encoder": tuple(Place(place.table, ("encoder.", "")) for place in MODEL)},
    default=("encoder",),
    matches=_is_small,
    proof=lambda network: "mask_token" in network or any(key.startswith("/decoder.") for key in network),
    marker="patchify.weight",
    leftovers=(r"/decoder\..*", r"mask_token"),
    renames=(
        (r"^patchify\.", "patch_embed.proj."),
        (r"^pos_embedding$", "pos_embed"),
        (r"^transformer\.", "blocks."),
        (r"^layer_norm\.", "norm."),
    ),
    convert=_unpack,
    heads={72: 3, 192: 3},
    mean=HALF,
    std=HALF,
    norm_eps=1e-5,
    resize_is_ours=True,
)
FAMILIES = (SMALL_MAE, PROBE, MAE)
