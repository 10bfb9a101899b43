"""``teacher_r2`` block by block, cross-validated over one set of images that is read twice, with a searched ridge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import whiten
from fdlab.measures.ridge import FoldedRidge, PositionRidge, explained
from fdlab.randomness import stream
from fdlab.records.intervals import interval_of_means

FOLDS = 4
FEWEST = 16  # images, so that the ridge that a strength is judged by has 8
Block = tuple[Tensor, tuple[int, int] | None]  # patch tokens (b, N, C) and their grid, where they have one


class TeacherFolds:
    """Cross-validated ``teacher_r2`` of every block and of the final tokens, in two passes over the same images.

    ``add`` every batch, ``fit``, and ``add`` every batch again in the same order. Kept are sums (``FoldedRidge``: for
    ViT-B on a ViT-B some 0.5 GB) and two numbers an image and block. The teacher's tokens are resized to each block's
    grid and whitened. Blocks without a grid are left out.

    Args:
        images: how many there will be at most.
        seed: of the folds and the interval.

    Raises:
        FdlabError: fewer than ``FEWEST`` images.
    """

    def __init__(self, images: int, seed: int) -> None:
        _enough(images)
        self.seed = seed
        self._folds = stream(seed, "teacher folds", images).permutation(images) % FOLDS
        self._seen = 0
        self._sums: dict[int, FoldedRidge] = {}
        self._ridges: dict[int, list[PositionRidge]] = {}
        self._squares: list[np.ndarray] = []

    def add(self, teacher: Block, blocks: list[Block]) -> None:
        """A batch of images: the teacher's patch tokens, the model's behind each block and after the final norm."""
        count = len(teacher[0])
        folds = self._folds[self._seen : self._seen + count]
        self._seen += count
        targets: dict[tuple[int, int], Tensor] = {}
        squares = np.full((count, len(blocks), 2), np.nan)
        for block, (source, grid) in enumerate(blocks):
            if grid is None:
                continue
            if grid not in targets:
                targets[grid] = whiten(on_grid(*teacher, grid))
            if not self._ridges:
                self._sums.setdefault(block, FoldedRidge(FOLDS)).add(source.cpu(), targets[grid], folds)
                continue
            for fold in np.unique(folds):
                chosen = folds == fold
                pair = explained(self._ridges[block][fold], source.cpu()[chosen], targets[grid][chosen])
                squares[chosen, block] = torch.stack(pair, 1).numpy()
        if self._ridges:
            self._squares.append(squares)

    def fit(self) -> None:
        """The ridges, after all images were added once."""
        _enough(self._seen)
        self._ridges = {block: sums.fit() for block, sums in self._sums.items()}
        self._sums, self._seen = {}, 0

    def rows(self, teacher: str) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Rows of the table, whose objective names the ``teacher``; and per image and block its squared
        error and its squared distance to the position mean, (n, blocks + 1, 2)."""
        squares = np.concatenate(self._squares)
        every, depth, rows = explained_rows(squares, self.seed), squares.shape[1] - 1, []
        for block in sorted(self._ridges):
            of = "final tokens" if block == depth else "block output"
            rows.append(every[block] | {"objective": f"{teacher}, ridge, {FOLDS} folds, {of}"})
        return rows, squares


def explained_rows(squares: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """A row ``teacher_r2`` a block, and one of the final tokens (no block), from (n, blocks + 1, 2) squared errors
    and squared distances to the position mean."""
    estimate = interval_of_means(squares, lambda means: 1 - means[..., 0] / means[..., 1], seed)
    depth = squares.shape[1] - 1
    return [
        {"metric": "teacher_r2", "value": float(estimate.value[block]), "low": float(estimate.low[block]),
         "high": float(estimate.high[block]), "n": len(squares),
         **({} if block == depth else {"block": block, "depth": (block + 1) / depth})}
        for block in range(depth + 1)
    ]  # fmt: skip


def _enough(images: int) -> None:
    if images < FEWEST:
        raise FdlabError(f"teacher_r2 needs at least {FEWEST} images.", f"There are {images}.", "Give more.", USAGE)


def on_grid(tokens: Tensor, old: tuple[int, int] | None, new: tuple[int, int]) -> Tensor:
    """Tokens (b, N, C) of the grid ``old``, resized to the grid ``new``."""
    if old is None or tuple(old) == tuple(new):
        return tokens
    as_map = tokens.transpose(1, 2).unflatten(2, old)
    return F.interpolate(as_map, size=new, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
