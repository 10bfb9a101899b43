"""``locality:ALPHA``: images whose label can only be told by comparing cells at a known distance.

Image of 32 x 32 px, cells of 4 px, rows r and columns c from 0 to 7. Each cell has one twin that shows
the same stripes; the label says whether twins lie in rows or in columns, and ALPHA is the probability
that they lie far apart (opposite quadrants, 20 or 25.6 px) and not side by side (4 px). The multiset of cells
has one law for both labels and both ranges, so nothing can be read without comparing positions.
A sample is a pure function of (seed, index): ALPHA only moves the threshold between near and far.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdlab.data.images import Images, Indices
from fdlab.randomness import stream

CELL, CELLS = 4, 8
SIDE = CELL * CELLS
NOISE = 0.3
TEST_START = 2**31


def twins(y: int, far: int) -> np.ndarray:
    """(64,) for each cell, row-major, the number of its twin; y = 1: the twin lies in the same row
    (near), y = 0: in the same column; far: the near twin moved to the diagonally opposite quadrant."""
    r, c = np.divmod(np.arange(CELLS * CELLS), CELLS)
    row, column = (0, 1) if y else (1, 0)
    if far:
        row, column = row ^ 4, column ^ 4
    return (r ^ row) * CELLS + (c ^ column)


_TWINS = np.stack([[twins(y, far) for far in (0, 1)] for y in (0, 1)])  # (y, far, 64)
_I, _J = np.meshgrid(np.arange(CELL), np.arange(CELL), indexing="ij")
STRIPES = np.stack([np.cos(2 * np.pi * (_I - _J) / 4), np.cos(2 * np.pi * (_I + _J) / 4)])  # symbol -1, +1


@dataclass(frozen=True)
class Cells:
    """``y``, ``far`` (B,) and ``symbols`` (B, 64) in {0, 1}; ``contrast`` (B, 64); ``noise`` (B, 32, 32)."""

    y: np.ndarray
    far: np.ndarray
    symbols: np.ndarray
    contrast: np.ndarray
    noise: np.ndarray


def draw_cells(seed: int, indices: Indices, alpha: float) -> Cells:
    """Everything random about these samples: each has a generator of its own, from (seed, index)."""
    count = CELLS * CELLS
    uniforms = np.empty((len(indices), 2 + 2 * count))
    noise = np.empty((len(indices), SIDE, SIDE), np.float32)
    for place, index in enumerate(indices):
        generator = stream(seed, "locality", int(index))
        generator.random(out=uniforms[place])
        generator.standard_normal(out=noise[place], dtype=np.float32)
    y, far = (uniforms[:, 0] < 0.5).astype(np.int64), (uniforms[:, 1] < alpha).astype(np.int64)
    drawn = (uniforms[:, 2 : 2 + count] < 0.5).astype(np.int64)
    # the later cell of a pair takes the earlier's symbol
    symbols = np.take_along_axis(drawn, np.minimum(np.arange(count), _TWINS[y, far]), axis=1)
    return Cells(y, far, symbols, 0.6 + 0.8 * uniforms[:, 2 + count :], noise)


def render(cells: Cells) -> Tensor:
    """(B, 3, 32, 32) float32: 0.5 + x / 6 clipped to [0, 1], one channel repeated."""
    drawn = STRIPES[cells.symbols] * cells.contrast[:, :, None, None]  # (B, 64, 4, 4)
    x = drawn.reshape(-1, CELLS, CELLS, CELL, CELL).transpose(0, 1, 3, 2, 4).reshape(-1, SIDE, SIDE)
    stored = np.clip(0.5 + (x + NOISE * cells.noise) / 6, 0, 1).astype(np.float32)
    return torch.from_numpy(stored)[:, None].repeat(1, 3, 1, 1)


def ideal_distance(alpha: float) -> float:
    """Pixels between twins on average: 4 + 18.8 alpha. Far twins are 5 or sqrt(41) cells apart, each half
    of the time; uniform attention on this grid has 16.6 px.

    >>> ideal_distance(0.0), round(ideal_distance(1.0), 2)
    (4.0, 22.81)
    """
    far = CELL * (5 + math.sqrt(41)) / 2
    return CELL + alpha * (far - CELL)


class Locality(Images):
    """Endless; ``train`` counts from 0, ``test`` from 2^31."""

    classes = ("twins in a column", "twins in a row")
    mean = (0.5, 0.5, 0.5)
    std = (1 / 6, 1 / 6, 1 / 6)
    native_size = (SIDE, SIDE)
    endless = True

    def __init__(self, alpha: float, seed: int) -> None:
        super().__init__()
        self.alpha, self.seed, self.name = alpha, seed, f"locality {alpha:g}"

    def __len__(self) -> int:
        return TEST_START

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"locality v1 alpha={self.alpha!r} seed={self.seed}".encode()).hexdigest()

    def read(self, index: int) -> Tensor:
        return self.read_many(np.array([index]))[0]

    def read_many(self, indices: np.ndarray) -> Tensor:
        return render(draw_cells(self.seed, indices, self.alpha))

    def labels(self, indices: Indices) -> np.ndarray:
        # The label is the first number of a sample's generator, so that labels alone cost no pixels.
        first = (stream(self.seed, "locality", int(index)).random() for index in indices)
        return np.fromiter((u < 0.5 for u in first), dtype=np.int64, count=len(indices))

    def splits(self) -> dict[str, Indices]:
        return {"train": range(TEST_START), "test": range(TEST_START, 2 * TEST_START)}

    def split_note(self) -> str:
        return "test samples are numbered from 2^31"
