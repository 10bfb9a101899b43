"""Which device computes, with an error that says what is missing; constants that are already there."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fdlab.errors import USAGE, FdlabError


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        FdlabError: the name is unknown or the device is absent.
    """
    text = str(name)
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, place = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (place and not place.isdigit()):
        raise FdlabError(f"Unknown device '{text}'.", fix="Use auto, cpu, cuda, cuda:N or mps.", code=USAGE)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise FdlabError("No mps device here.", "torch finds no Apple GPU.", "Use --device cpu.", code=USAGE)
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(place or 0) >= found:
            why = f"torch finds {found} CUDA device(s); this torch build is {torch.__version__}."
            raise FdlabError(f"No device '{text}' here.", why, "Use --device auto or --device cpu.", code=USAGE)
    return torch.device(text)


@lru_cache(maxsize=64)
def channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(1, C, 1, 1) constants of the channels, sent to the device once: sending them each time would wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
