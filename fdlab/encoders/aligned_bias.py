"""A learnt attention bias as the kernel wants it that returns its gradient.

On CUDA only the memory-efficient kernel gives a mask's gradient, and it wants rows that begin at multiples of 8
numbers and the queries' type. Else every block casts and pads it again. Here it is made so where it is built: once a
step for a bias that the blocks share. The values, and what is saved, stay the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_rel import RelPosBias
from timm.models import beit
from torch import Tensor, nn

ROW = 8


def aligned(bias: Tensor) -> Tensor:
    """(1, heads, N, N) -> the same values with rows of a multiple of 8 numbers, in autocast's type where it is on."""
    kind = bias.device.type
    if torch.is_autocast_enabled(kind):
        bias = bias.to(torch.get_autocast_dtype(kind))
    count = bias.shape[-1]
    return F.pad(bias, (0, -count % ROW))[..., :count] if count % ROW else bias


def align_bias(module: nn.Module) -> int:
    """Every bias of stock BEiT and relative-position classes below ``module`` is built aligned; how many there are."""
    found = 0
    for owner in module.modules():
        name = _maker(owner)
        if name is not None and name not in vars(owner):
            setattr(owner, name, _Aligned(getattr(owner, name)))
            found += 1
    return found


def _maker(owner: nn.Module) -> str | None:
    """The method that builds this module's bias."""
    if isinstance(owner, RelPosBias):
        return "get_bias"
    if isinstance(owner, beit.RelativePositionBias):
        return "forward"
    if isinstance(owner, beit.Attention) and owner.window_size:
        return "_get_rel_pos_bias"
    return None


class _Aligned:
    """A method whose result is aligned; a deep copy of its module has its own."""

    def __init__(self, method: Callable[[], Tensor]) -> None:
        self.method = method

    def __call__(self) -> Tensor:
        return aligned(self.method())
