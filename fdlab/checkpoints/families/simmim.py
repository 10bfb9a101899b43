"""SimMIM, pre-trained: the encoder under ``encoder.`` beside a one-layer pixel decoder (ViT, Swin, Swin V2)."""

from __future__ import annotations

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.beit import LEFTOVERS, is_beit
from fdlab.checkpoints.families.family import Family, Network, under
from fdlab.checkpoints.families.swin import RENAMES, is_swin, is_swin_v2, spread_shared_bias

_BESIDE = (r"mask_token", r"/decoder\..*")


def _is_simmim(network: Network) -> bool:
    decoder = network.get("/decoder.0.weight")
    return "mask_token" in network and decoder is not None and decoder.ndim == 4


def _matches_vit(network: Network, contents: Contents) -> bool:
    return _is_simmim(network) and is_beit(network)


def _matches_swin(network: Network, contents: Contents) -> bool:
    return _is_simmim(network) and is_swin(network)


def _matches_swin_v2(network: Network, contents: Contents) -> bool:
    return _is_simmim(network) and is_swin_v2(network)


_ENCODERS = {"encoder": under("encoder.")}

FAMILIES = (
    Family(
        name="simmim_vit",
        title="SimMIM ViT, pre-trained (BEiT's block, one shared relative table)",
        kind="mim",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_vit,
        builder="beit",
        leftovers=(*LEFTOVERS, *_BESIDE),
        heads={768: 12, 1024: 16},
    ),
    Family(
        name="simmim_swin_v2",
        title="SimMIM Swin V2, pre-trained",
        kind="mim",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_swin_v2,
        builder="swin_v2",
        leftovers=_BESIDE,
        renames=RENAMES,
        convert=lambda state: timm_order(spread_shared_bias(state)),
        norm_eps=1e-5,
    ),
    Family(
        name="simmim_swin_v1",
        title="SimMIM Swin, pre-trained",
        kind="mim",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_swin,
        builder="swin",
        leftovers=_BESIDE,
        convert=timm_order,
        norm_eps=1e-5,
    ),
)
