"""A slow copy of trained networks: their exponential moving average, never trained itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn


def momentum_at(step: int, total: int, start: float) -> float:
    """``1 - (1 - start) (1 + cos(pi step / total)) / 2``: from ``start`` to 1 (DINO's and MoCo v3's schedule).

    >>> [round(momentum_at(step, 100, 0.99), 4) for step in (0, 50, 100)]
    [0.99, 0.995, 1.0]
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0))) / 2


class SlowCopy(nn.ModuleDict):
    """Copies of some parts of a module, equal at first, then following it. In evaluation mode, without gradient."""

    def __init__(self, module: nn.ModuleDict, names: Sequence[str]) -> None:
        super().__init__({name: copy.deepcopy(module[name]) for name in names})
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def follow(self, module: nn.ModuleDict, momentum: float) -> None:
        """``slow = momentum * slow + (1 - momentum) * fast``; what is not trained (buffers) is left alone."""
        fast = {name: tensor for part in self for name, tensor in _named(module, part)}
        slow = {name: tensor for part in self for name, tensor in _named(self, part)}
        torch._foreach_lerp_(list(slow.values()), [fast[name] for name in slow], 1 - momentum)


def _named(module: nn.ModuleDict, part: str) -> list[tuple[str, torch.Tensor]]:
    return [(f"{part}.{name}", parameter.detach()) for name, parameter in module[part].named_parameters()]
