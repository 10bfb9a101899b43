"""The output of every attention head, where the block's projection mixes them: read it, or leave one head out.

The input of that layer (timm's ``attn.proj``) holds the heads' outputs side by side, head after head. Zeroing one
head's channels there takes away all that the head adds to the tokens; the projection's bias stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import COMPLETE
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
    """The projection of every block, in order, by the anatomy.

    Raises:
        FdlabError: code 3, a block has no linear layer that takes the outputs of its heads side by side.
    """
    names, found = encoder.anatomy.projections, []
    if names == () or encoder.info.attention != COMPLETE:
        raise _apart(encoder, 0)
    for place, (block, heads) in enumerate(zip(blocks_of(encoder.module), heads_of(encoder), strict=True)):
        layer = encoder.module.get_submodule(names[place]) if names else _timm_projection(block)
        if not isinstance(layer, nn.Linear) or layer.in_features % heads:
            raise _apart(encoder, place)
        found.append(Projection(layer, heads))
    return found


def _timm_projection(block: nn.Module) -> nn.Module | None:
    return getattr(getattr(block, "attn", None), "proj", None)


def heads_refusal(encoder: Encoder) -> FdlabError | None:
    """Why the heads of this model cannot be told apart, or None."""
    try:
        projections(encoder)
    except FdlabError as error:
        return error
    return None


def _apart(encoder: Encoder, place: int) -> FdlabError:
    if encoder.info.attention.startswith("none"):
        what, why = f"{encoder.info.title} has no heads.", "There is no attention in it."
    else:
        what = f"The heads of block {place + 1} of {type(encoder.module).__name__} cannot be told apart."
        why = "It has no linear layer whose input is the outputs of its heads side by side."
    return FdlabError(
        what,
        why,
        "Leave the part heads out (--part curves), or measure a model whose heads meet in one nn.Linear.",
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
