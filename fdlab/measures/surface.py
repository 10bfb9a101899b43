"""Where a loss surface is looked at: odd grids, a quadtree on the logarithm of the loss, the plane of a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from fdlab.errors import USAGE, FdlabError

Cell = tuple[int, int]  # column (first direction), row (second direction), counted from 0
LEVELS = (0.1, 0.5, 1.0, 2.0, 4.0)  # rises above the loss at the weights at which contours are drawn


def odd_grid(span: float, points: int) -> np.ndarray:
    """(points,) from -span to span with an exact 0 in the middle.

    Raises:
        FdlabError: code 2, an even number of points (the weights would lie on none), or no span.
    """
    if points < 3 or points % 2 == 0 or not span > 0:
        raise FdlabError(
            f"A grid of {points} points over {span} has no middle.",
            "The weights themselves must be one of its points.",
            "Use an odd number of points, at least 3, and a span above 0.",
            code=USAGE,
        )
    half = points // 2
    return span * np.arange(-half, half + 1) / half


def quadtree(points: int, loss: Callable[[Cell], float], *, tolerance: float = 0.1) -> dict[Cell, float]:
    """Losses at the cells that a coarse-to-fine search visits, so that the contours ``LEVELS`` can be drawn.

    A square is divided while the logarithm of the loss in its middle is off the mean of its corners' by more than
    ``tolerance`` and a level lies near. Losses that are not finite count as very large.

    Args:
        points: of a side; an odd number.
        loss: of one cell; asked once for each.
    """
    known: dict[Cell, float] = {}

    def at(cell: Cell) -> float:
        if cell not in known:
            known[cell] = loss(cell)
        return known[cell]

    centre = at((points // 2, points // 2))
    levels = np.log([centre + rise for rise in LEVELS])
    stride = 1
    while (points - 1) % (2 * stride) == 0 and stride < 8:
        stride *= 2
    starts = range(0, points - 1, stride)
    squares = [(column, row, stride) for row in starts for column in starts]
    while squares:
        column, row, size = squares.pop()
        corners = [
            _log(at(c))
            for c in ((column, row), (column + size, row), (column, row + size), (column + size, row + size))
        ]
        half = size // 2
        if not half:
            continue
        middle = _log(at((column + half, row + half)))
        low, high = min(*corners, middle), max(*corners, middle)
        slack = 0.5 * (high - low) + tolerance
        near = bool(((levels > low - slack) & (levels < high + slack)).any())
        if abs(middle - np.mean(corners)) > tolerance and near:
            squares += [(column + x, row + y, half) for x in (0, half) for y in (0, half)]
    return known


def filled(known: Mapping[Cell, float], points: int) -> np.ndarray:
    """(points, points), row by second direction: known losses as they are, the rest from a thin plate of their log."""
    from scipy.interpolate import RBFInterpolator

    cells = [cell for cell, value in known.items() if np.isfinite(value)]
    places = np.array(cells, dtype=float) / (points - 1)
    logs = np.array([_log(known[cell]) for cell in cells])
    plate = RBFInterpolator(places, logs, kernel="cubic", neighbors=min(len(cells), 60))
    across, up = np.meshgrid(np.arange(points), np.arange(points))
    wanted = np.stack([across.ravel(), up.ravel()], 1) / (points - 1)
    surface = np.exp(plate(wanted)).reshape(points, points)
    for (column, row), value in known.items():
        surface[row, column] = value
    return surface


def _log(value: float) -> float:
    return float(np.log(np.clip(value, 1e-12, 1e12))) if np.isfinite(value) else float(np.log(1e12))


class Trajectory(NamedTuple):
    """The plane that holds most of a path: (T, 2) places, (2, T) coefficients of the axes, shares explained."""

    places: np.ndarray
    axes: np.ndarray
    explained: np.ndarray
    random_walk: np.ndarray


def trajectory(gram: np.ndarray) -> Trajectory:
    """The first two principal axes of steps away from the last point (Li et al. 2018, uncentred).

    Args:
        gram: (T, T) inner products of w_i - w_last, the last point included (a row of zeros).

    ``axes[k] @ steps`` is the k-th axis, of length 1. ``random_walk``: what a walk of equal, independent steps would
    show in as many points; it explains most of itself with two axes too (Antognini & Sohl-Dickstein 2018).
    """
    values, vectors = _two_largest(gram)
    axes = np.where(
        values[:, None] > 1e-12 * max(values[0], 1e-300), vectors.T / np.sqrt(np.maximum(values, 1e-300))[:, None], 0.0
    )
    count = len(gram)
    left = np.arange(count - 1, -1, -1)  # steps from point i to the last
    walk = np.minimum(left[:, None], left[None]).astype(float)
    total, all_walk = np.trace(gram), np.trace(walk)
    return Trajectory(
        gram @ axes.T,
        axes,
        values / total if total > 0 else np.zeros(2),
        _two_largest(walk)[0] / all_walk if all_walk > 0 else np.zeros(2),
    )


def _two_largest(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values[::-1][:2], 0), vectors[:, ::-1][:, :2]
