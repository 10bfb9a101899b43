"""Which network an own module is: its tensors do not say it, since heads, eps and activation are in none of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fdlab.encoders.encoder import EncoderInfo


def own_identity(module: nn.Module, info: EncoderInfo, trace: str, read: Sequence[Any]) -> str:
    """sha256 over classes, the operations of one pass (shapes, scalars), and ``read``: tensors, way of reading."""
    digest = hashlib.sha256(" ".join(type(part).__name__ for part in module.modules()).encode())
    told = [trace, info.image_size, info.mean, info.std, info.prefix_tokens, list(info.grid), list(map(str, read))]
    digest.update(json.dumps(told).encode())
    return digest.hexdigest()


def tensors_digest(module: nn.Module) -> str:
    """sha256 over all parameters and all buffers, also those that no state dict holds, by name."""
    digest = hashlib.sha256()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous()
    try:
        return plain.reshape(-1).view(torch.uint8).numpy().data
    except (RuntimeError, TypeError):  # a tensor subclass: quantised weights
        return repr(plain).encode()
