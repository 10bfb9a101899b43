"""SimMIM, pre-trained: the encoder under ``encoder.`` beside a one-layer pixel decoder (ViT, Swin, Swin V2)."""

from __future__ import annotations

from dataclasses import replace

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.families.beit import LEFTOVERS, is_beit
from fdlab.checkpoints.families.family import Family, Network, all_of, under
from fdlab.checkpoints.families.swin import RENAMES, is_swin, is_swin_v2, timm_order_of_v2

_BESIDE = (r"mask_token", r"/decoder\..*")


def _is_simmim(network: Network) -> bool:
    decoder = network.get("/decoder.0.weight")
    return "mask_token" in network and decoder is not None and decoder.ndim == 4


VIT = Family(
    name="simmim_vit",
    title="SimMIM ViT, pre-trained (BEiT's block, one shared relative table)",
    kind="mim",
    encoders={"encoder": under("encoder.")},
    default=("encoder",),
    matches=all_of(_is_simmim, is_beit),
    builder="beit",
    leftovers=(*LEFTOVERS, *_BESIDE),
    heads={768: 12, 1024: 16},
)
SWIN = replace(
    VIT,
    name="simmim_swin_v1",
    title="SimMIM Swin, pre-trained",
    matches=all_of(_is_simmim, is_swin),
    builder="swin",
    leftovers=_BESIDE,
    convert=timm_order,
    heads={},
    norm_eps=1e-5,
)
SWIN_V2 = replace(
    SWIN,
    name="simmim_swin_v2",
    title="SimMIM Swin V2, pre-trained",
    matches=all_of(_is_simmim, is_swin_v2),
    builder="swin_v2",
    renames=RENAMES,
    convert=timm_order_of_v2,
)
FAMILIES = (VIT, SWIN_V2, SWIN)
