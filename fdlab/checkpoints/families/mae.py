"""MAE: ``{model: ...}``, the encoder alone, with its decoder, or fine-tuned, on a fixed sin-cos table."""

from __future__ import annotations

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import MODEL, Family, Network, class_row_is_zero, is_plain_vit
from fdlab.checkpoints.families.moco import column_first


def _matches(network: Network, contents: Contents) -> bool:
    if not is_plain_vit(network):
        return False
    # Fine-tuning moves the table, so its class row is no longer zero; the norm after pooling remains.
    if "fc_norm.weight" in network and "head.weight" in network and "norm.weight" not in network:
        return "blocks.0.ls1.gamma" not in network
    return any(key.startswith("decoder_") for key in network) or (
        class_row_is_zero(network) and column_first(network["pos_embed"][0, 1:])
    )


FAMILIES = (
    Family(
        name="mae",
        title="MAE (plain ViT with a fixed sin-cos table)",
        kind="mim",
        encoders={"encoder": MODEL},
        default=("encoder",),
        matches=_matches,
        leftovers=(r"mask_token", r"decoder_.*"),
        heads={768: 12, 1024: 16, 1280: 16},
        resize="size",
        fixed_positions=True,
        timm_names={
            (768, 12, 16): "vit_base_patch16_224.mae",
            (1024, 24, 16): "vit_large_patch16_224.mae",
            (1280, 32, 14): "vit_huge_patch14_224.mae",
        },
    ),
)
