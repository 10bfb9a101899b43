"""Modules whose parameters are about to come from a file: made without drawing initial values.

A ViT-B spends more time on its random start than on reading its weights. Buffers are computed as always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    ["uniform_", "normal_", "trunc_normal_", "erfinv_", "mul_", "div_", "add_", "clamp_", "fill_", "zero_"]
)


class _Unfilled(TorchFunctionMode):
    """In-place fills of parameters and ``torch.nn.init`` do nothing inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        if isinstance(target, nn.Parameter):
            name, home = getattr(func, "__name__", ""), getattr(func, "__module__", "")
            if name in _FILLS or home == "torch.nn.init":
                return target
        return func(*args, **kwargs)


def blank(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with undefined parameters: every one of them must be loaded before use."""
    with _Unfilled():
        return make()


def unfitting(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> list[str]:
    """Keys that are missing, not known or of another shape; made without memory, so before anything is."""
    with torch.device("meta"):
        wanted = {key: tuple(tensor.shape) for key, tensor in blank(make).state_dict().items()}
    missing = [f"{key} is missing" for key in wanted if key not in state]
    extra = [f"{key} is not known" for key in state if key not in wanted]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    return missing + extra + shapes
