"""From the host to a device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on the device, without waiting for it: a GPU fetches it from page-locked memory."""
    target = torch.device(device)
    if target.type != "cuda" or tensor.is_cuda:
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)
