"""The official feature-distillation files: student under ``encoder.``, frozen teacher under ``feature_model.``.

The teacher is often the better-known layout; it is never taken.
"""

from __future__ import annotations

from fdlab.checkpoints.builders.swin import timm_order
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.beit import LEFTOVERS, is_beit
from fdlab.checkpoints.families.family import Family, Network, under
from fdlab.checkpoints.families.swin import RENAMES, is_swin, is_swin_v2, spread_shared_bias

_BESIDE = (r"/decoder\..*", r"/feature_model\..*", r"mask_token")
_ENCODERS = {"encoder": under("encoder.")}
_NOTES = ("the student (encoder.) is taken; a frozen teacher (feature_model.) in the file is left alone",)


def _is_distilled(network: Network) -> bool:
    """A frozen teacher, or (where it was removed) the 1x1 convolution over tokens to the teacher's width."""
    decoder = network.get("/decoder.0.weight")
    return any(key.startswith("/feature_model.") for key in network) or (decoder is not None and decoder.ndim == 3)


def _matches_vit(network: Network, contents: Contents) -> bool:
    return _is_distilled(network) and is_beit(network)


def _matches_swin_v2(network: Network, contents: Contents) -> bool:
    return _is_distilled(network) and is_swin_v2(network)


def _matches_swin(network: Network, contents: Contents) -> bool:
    return _is_distilled(network) and is_swin(network)


FAMILIES = (
    Family(
        name="fd_vit_distilled",
        title="feature-distilled ViT of the official code (BEiT's block, one shared relative table)",
        kind="distilled",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_vit,
        builder="beit",
        leftovers=(*LEFTOVERS, *_BESIDE),
        heads={768: 12, 1024: 16},
        notes=_NOTES,
    ),
    Family(
        name="fd_swin_v2_distilled",
        title="feature-distilled Swin V2 of the official code",
        kind="distilled",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_swin_v2,
        builder="swin_v2",
        leftovers=_BESIDE,
        renames=RENAMES,
        convert=lambda state: timm_order(spread_shared_bias(state)),
        norm_eps=1e-5,
        notes=(*_NOTES, "position bias 16 sigmoid(...), as in the published configuration: no tensor shows it"),
    ),
    Family(
        name="fd_swin_distilled",
        title="feature-distilled Swin of the official code",
        kind="distilled",
        encoders=_ENCODERS,
        default=("encoder",),
        matches=_matches_swin,
        builder="swin",
        leftovers=_BESIDE,
        convert=timm_order,
        norm_eps=1e-5,
        notes=_NOTES,
    ),
)
