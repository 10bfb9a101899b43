"""The output of every attention head, where the block's projection mixes them: read it, or leave one head out.

The input of ``attn.proj`` holds the heads' outputs side by side, head after head. Zeroing one head's channels there
takes away all that the head adds to the tokens; the projection's bias stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import Encoder, blocks_of
from fdlab.encoders.reading import heads_of
from fdlab.errors import NOT_UNDERSTOOD, FdlabError


class Projection(NamedTuple):
    """One block's linear layer behind its heads, and how many heads it mixes."""

    layer: nn.Linear
    heads: int

    def by_head(self, inputs: Tensor) -> Tensor:
        """(..., C) -> (..., heads, C / heads)."""
        return inputs.unflatten(-1, (self.heads, -1))


def projections(encoder: Encoder) -> list[Projection]:
    """The projection of every block, in order.

    Raises:
        FdlabError: a block has no linear ``attn.proj``, or one that does not take its heads side by side.
    """
    if encoder.anatomy.projections == ():
        raise _apart(encoder, 0)
    found = []
    for place, (block, heads) in enumerate(zip(blocks_of(encoder.module), heads_of(encoder), strict=True)):
        layer = getattr(getattr(block, "attn", None), "proj", None)
        if not isinstance(layer, nn.Linear) or layer.in_features % heads:
            raise _apart(encoder, place)
        found.append(Projection(layer, heads))
    return found


def _apart(encoder: Encoder, place: int) -> FdlabError:
    return FdlabError(
        f"The heads of block {place + 1} of {type(encoder.module).__name__} cannot be told apart.",
        "It has no linear attn.proj that takes the outputs of its heads side by side.",
        "Leave the part heads out, or measure a ViT, BEiT, EVA or Swin.",
        code=NOT_UNDERSTOOD,
    )


@contextlib.contextmanager
def without_head(projection: Projection, head: int) -> Iterator[None]:
    """Inside, this head gives zeros; nothing of the module is changed afterwards."""

    def zeroed(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept = torch.ones(projection.heads, 1, dtype=inputs[0].dtype, device=inputs[0].device)
        kept[head] = 0
        return ((projection.by_head(inputs[0]) * kept).flatten(-2), *inputs[1:])

    handle = projection.layer.register_forward_pre_hook(zeroed)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def head_outputs(found: list[Projection]) -> Iterator[list[Tensor]]:
    """Inside, every forward pass appends the input of each projection, (B or B * windows, tokens, C), to the list."""
    seen: list[Tensor] = []
    with contextlib.ExitStack() as undo:
        for projection in found:
            handle = projection.layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
            undo.callback(handle.remove)
        yield seen
