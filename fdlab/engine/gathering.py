"""Vectors of the whole batch on every rank, with their gradient: for losses and norms that compare images.

Each rank computes its own images' vectors, gathers everybody's, and computes what couples them on the whole batch, as
one process would. Every rank's loss is then a function of every rank's vectors, so the gradient of a rank's own vectors
is the sum over the ranks' losses. The weights' gradients are averaged over R ranks afterwards (DDP, FSDP2), which gives
dL/dv both where each rank has the whole loss L (R dL/dv / R) and where it has its own images' (L = mean of L_r).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fdlab.engine.distributed import current


class _Gather(torch.autograd.Function):
    """(b, ...) -> (ranks, b, ...); backward: the sum over the ranks of this rank's part."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        ctx.rank = dist.get_rank()
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].float().contiguous()  # the sum in single precision, whatever the step's
        dist.all_reduce(whole)
        return whole[ctx.rank].to(gradients[0].dtype)


def gathered(mine: Tensor, views: int = 1) -> Tensor:
    """The whole batch's rows from this rank's, on one process the same tensor.

    Args:
        mine: (views * b, ...), view after view, b images of this rank.

    Returns:
        (views * ranks * b, ...), view after view, in the order of the global batch.
    """
    if current().alone:
        return mine
    every: Tensor = _Gather.apply(mine)
    return every.unflatten(1, (views, -1)).transpose(0, 1).flatten(0, 2)


def own_rows(whole: Tensor) -> Tensor:
    """This rank's rows of one view's ``gathered``."""
    ranks = current()
    return whole.chunk(ranks.ranks)[ranks.rank]
