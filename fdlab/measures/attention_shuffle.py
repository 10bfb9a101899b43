"""The shuffled control: what the numbers of a map are worth when its sharpness is all that is left.

The keys of every query are permuted, each query's by its own permutation: each row keeps its values, and
with them its entropy, but no longer says which key they belong to. A metric far from its shuffled value tells
of where the queries look; one close to it, of how sharp the rows are.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fdlab.randomness import stream


@lru_cache(maxsize=4)
def shuffled_keys(patches: int, device: torch.device) -> Tensor:
    """(N, N) int64: row i is the order in which query i reads its keys; the same in every run and model."""
    draw = stream(0, "shuffled keys", patches)
    order = draw.permuted(torch.arange(patches).expand(patches, patches).numpy(), axis=1)
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        return torch.from_numpy(order).to(device)


def shuffled_column_mean(maps: Tensor) -> Tensor:
    """(..., N): the mean over queries of maps (..., N, N) whose rows are shuffled.

    One draw for all heads and images: the column mean of N shuffled rows hardly depends on the draw.
    """
    return shuffled_sum(maps) / maps.shape[-1]


def shuffled_sum(maps: Tensor, first: int = 0) -> Tensor:
    """(..., N): the sum over queries ``first`` to ``first + n - 1`` of their shuffled rows (..., n, N)."""
    count, patches = maps.shape[-2:]
    order = shuffled_keys(patches, maps.device)[first : first + count]
    flat = order + torch.arange(count, device=maps.device)[:, None] * patches
    rows = maps.flatten(-2)
    return rows.gather(-1, flat.flatten().expand(rows.shape)).unflatten(-1, order.shape).sum(-2)


def shuffled_cosine(first_norm: Tensor, second_norm: Tensor, patches: int) -> Tensor:
    """Mean cosine of two rows over all permutations of either: 1 / (N |y^a| |y^b|), exact, without a draw.

    Under a random permutation every y^a_j meets the mean of y^b, which is 1/N, and a row sums to 1. The
    centred form's mean is 0.
    """
    return 1 / (patches * first_norm * second_norm)
