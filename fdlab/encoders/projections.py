"""Which linear layer takes the outputs of a block's heads side by side: found by value, whatever it is called.

One forward pass is watched below torch's functions. What an attention hands on is compared with the input of every
linear layer of its block: where both hold the same numbers, head after head, that layer is the projection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fdlab.encoders.witness import FUSED

RECENT = 8  # products and attentions before a layer that its input may come from


class _Handed(TorchDispatchMode):
    """What the last attentions and batched products gave."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in FUSED or func._schema.name == "aten::bmm":
            self.made = [*self.made[1 - RECENT :], out[0] if isinstance(out, tuple) else out]
        return out


def find_projections(
    module: nn.Module, run: Callable[[], Any], blocks: Sequence[str], heads: Sequence[int]
) -> tuple[str, ...]:
    """The dotted name of each block's projection, in order; empty where one block has none that shows.

    Args:
        run: makes one forward pass.
        heads: of the attention of each block.
    """
    found: dict[str, str] = {}
    handed = _Handed()
    with contextlib.ExitStack() as undo:
        for block, many in zip(blocks, heads, strict=False):
            for name, layer in module.get_submodule(block).named_modules(prefix=block):
                if isinstance(layer, nn.Linear) and layer.in_features % many == 0:
                    compare = partial(_compared, handed, found, block, name, many)
                    undo.callback(layer.register_forward_pre_hook(compare).remove)
        with torch.no_grad(), handed:
            run()
    names = tuple(found.get(block, "") for block in blocks)
    return names if names and all(names) and len(blocks) == len(heads) else ()


def _compared(
    handed: _Handed, found: dict[str, str], block: str, name: str, heads: int, _layer: nn.Module, inputs: Any
) -> None:
    """A hook: this layer is the block's projection if its input is what an attention gave."""
    if any(_side_by_side(made, inputs[0], heads) for made in handed.made):
        found.setdefault(block, name)


def _side_by_side(made: Tensor, given: Any, heads: int) -> bool:
    """Whether (B, N, C) ``given`` holds the outputs (B, heads, N, C / heads) of an attention, head after head."""
    if not isinstance(given, Tensor) or given.ndim != 3 or made.numel() != given.numel() or made.ndim < 3:
        return False
    batch, tokens, width = given.shape
    if tuple(made.shape[-2:]) != (tokens, width // heads):
        return False
    return torch.equal(made.reshape(batch, heads, tokens, width // heads).transpose(1, 2).flatten(2), given)
