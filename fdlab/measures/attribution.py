"""Attribution arithmetic: integrated gradients, attention rollout, deletion and insertion of cells of an image.

A score is any function (images (B, 3, H, W), aims (B, ...)) -> (B,), where the aim of an image says what is scored: a
class, a feature. Cells are the equal parts of a grid over the image; what is removed takes the baseline's colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fdlab.randomness import stream

Score = Callable[[Tensor, Tensor], Tensor]


def integrated_gradients(
    score: Score, images: Tensor, aims: Tensor, baseline: Tensor | float = 0.0, *, steps: int = 50, rows: int = 32
) -> tuple[Tensor, Tensor]:
    """(x - b) times the mean gradient of the score on the straight line from b to x (Sundararajan et al. 2017).

    Args:
        images: (B, 3, H, W).
        steps: points of the Gauss-Legendre rule.
        rows: images in one pass, at least B.

    Returns:
        attributions (B, 3, H, W), and their gap (B,): sum of the attributions - (score(x) - score(b)), 0 if exact.
    """
    from captum.attr import IntegratedGradients

    attributions, gap = IntegratedGradients(score).attribute(
        images,
        baselines=baseline,
        additional_forward_args=(aims,),
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=max(rows, len(images)),
        return_convergence_delta=True,
    )
    return attributions.detach(), gap.detach()


def line_points(steps: int) -> list[float]:
    """The points of the Gauss-Legendre rule on [0, 1]: those at which captum looks."""
    return [float(0.5 * (1 + x)) for x in np.polynomial.legendre.leggauss(steps)[0]]


class Rollout:
    """Attention rollout (Abnar & Zuidema 2020): the product over blocks of (A + I) / 2, A the mean over heads.

    Only the running product (B, T, T) is kept. L uniform blocks of T tokens give (1 - 2^-L) / T off the diagonal and
    2^-L more on it; identity stays identity.
    """

    def __init__(self) -> None:
        self.product: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """The next block's attention (B, heads, T, T), rows sum to 1."""
        mean = maps.mean(1)
        mixed = 0.5 * (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device))
        self.product = mixed if self.product is None else mixed @ self.product

    def patches(self, prefix: int, row: int | None) -> Tensor:
        """(B, N): how much of each patch reaches token ``row``, or the patch tokens on average (None)."""
        if self.product is None:
            raise ValueError("no block was added")
        reached = self.product[:, prefix:].mean(1) if row is None else self.product[:, row]
        return reached[:, prefix:]


def cell_sums(attributions: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, 3, H, W) -> (B, cells) row major: signed sums, so that completeness holds for cells too."""
    down, across = grid
    cells = attributions.sum(1).unflatten(1, (down, -1)).unflatten(3, (across, -1))
    return cells.sum((2, 4)).flatten(1)


def descending(values: Tensor) -> Tensor:
    """(B, cells) -> the cells from the largest value; equal ones in reading order."""
    return values.argsort(dim=1, descending=True, stable=True)


def random_order(seed: int, images: Iterable[int], cells: int) -> Tensor:
    """(B, cells): a permutation for each image, from (seed, number of the image) alone."""
    return torch.from_numpy(np.stack([stream(seed, "attribution", image).permutation(cells) for image in images]))


def counts_of(cells: int, steps: int) -> list[int]:
    """How many cells are changed at each point of a curve: from 0 to all, at most ``steps`` + 1 different numbers."""
    return sorted({round(step * cells / steps) for step in range(steps + 1)})


def curves(
    score: Score,
    images: Tensor,
    aims: Tensor,
    order: Tensor,
    grid: Sequence[int],
    counts: Sequence[int],
    *,
    baseline: float = 0.0,
    ends: tuple[Tensor, Tensor] | None = None,
    done: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Scores while cells are removed from the image, and while they are added to the baseline (Petsiuk et al. 2018).

    Args:
        order: (B, cells): which cell comes first.
        counts: numbers of changed cells, from 0 to all.
        ends: score of the whole image and of the baseline (B,), where known: the same for every order.
        done: told after each pass.

    Returns:
        deletion and insertion, (B, len(counts)) each.
    """
    rank = order.argsort(dim=1)
    whole, empty = ends or (score(images, aims), score(torch.full_like(images, baseline), aims))
    removed, added = [whole], [empty]
    for count in counts[1:-1]:
        for kept, scores in ((rank >= count, removed), (rank < count, added)):
            scores.append(score(torch.where(pixels(kept, grid, images), images, baseline), aims))
            done()
    return torch.stack([*removed, empty], 1), torch.stack([*added, whole], 1)


def pixels(cells: Tensor, grid: Sequence[int], images: Tensor) -> Tensor:
    """(B, cells) -> (B, 1, H, W): every pixel has its cell's value."""
    down, across = grid
    height, width = images.shape[-2] // down, images.shape[-1] // across
    spread = cells.to(images.device).unflatten(1, (down, across))
    return spread.repeat_interleave(height, 1).repeat_interleave(width, 2)[:, None]
