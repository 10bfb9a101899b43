"""The official feature-distillation files: student under ``encoder.``, frozen teacher under ``feature_model.``.

The student's layout is SimMIM's of the same class. The teacher is often the better-known layout; it is never taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fdlab.checkpoints.families import simmim
from fdlab.checkpoints.families.beit import is_beit
from fdlab.checkpoints.families.family import Family, Network, all_of
from fdlab.checkpoints.families.swin import is_swin, is_swin_v2

_NOTES = ("the student (encoder.) is taken; a frozen teacher (feature_model.) in the file is left alone",)


def _is_distilled(network: Network) -> bool:
    """A frozen teacher, or (where it was removed) the 1x1 convolution over tokens to the teacher's width."""
    decoder = network.get("/decoder.0.weight")
    return any(key.startswith("/feature_model.") for key in network) or (decoder is not None and decoder.ndim == 3)


def _distilled(family: Family, name: str, title: str, is_class: Callable[[Network], bool]) -> Family:
    return replace(
        family,
        name=name,
        title=title,
        kind="distilled",
        matches=all_of(_is_distilled, is_class),
        leftovers=(*family.leftovers, r"/feature_model\..*"),
        notes=_NOTES,
    )


_SWIN_V2 = _distilled(
    simmim.SWIN_V2, "fd_swin_v2_distilled", "feature-distilled Swin V2 of the official code", is_swin_v2
)
FAMILIES = (
    _distilled(
        simmim.VIT,
        "fd_vit_distilled",
        "feature-distilled ViT of the official code (BEiT's block, one shared relative table)",
        is_beit,
    ),
    replace(
        _SWIN_V2,
        notes=(*_NOTES, "position bias 16 sigmoid(...), as in the published configuration: no tensor shows it"),
    ),
    _distilled(simmim.SWIN, "fd_swin_distilled", "feature-distilled Swin of the official code", is_swin),
)
