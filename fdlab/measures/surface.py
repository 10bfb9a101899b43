"""The points at which a loss surface is computed: odd grids, a search along contours, the plane of a trajectory."""

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

    >>> odd_grid(1.0, 5).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
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


def near_contours(points: int, loss: Callable[[Cell], float], *, share: float = 0.15) -> dict[Cell, float]:
    """Losses at the cells that a coarse-to-fine search visits, so that the contours ``LEVELS`` can be drawn.

    From a coarse grid on, the logarithm of the loss is interpolated, and the cells within one cell of an interpolated
    contour that are farthest from all known ones come next, a few at a time. Once ``share`` is used, the last sixth of
    it is a test: what the interpolation says of cells that it does not know, near contours and far from all known
    ones, is held against their losses. Where a contour would lie more than half a cell off, the search is widened by
    half the share and tested again, up to the whole grid: a surface that is too rough for it costs more, and is right.

    Args:
        points: of a side; an odd number.
        loss: of one cell; asked once for each. One that is not finite is kept and interpolated around.
        share: of all cells, where the test is passed at once; the coarse grid comes in any case.
    """
    half = points // 2
    coarse = sorted({round(place) for place in np.linspace(0, points - 1, max(half // 5 * 2 + 1, 3))})
    known = {(half, half): loss((half, half))}
    for cell in ((column, row) for row in coarse for column in coarse):
        if cell not in known:
            known[cell] = loss(cell)
    rises = [value - known[half, half] for value in known.values() if np.isfinite(value)]
    scale = min(1.0, max(rises, default=0.0) / LEVELS[-1])  # losses of other units than nats
    if not scale > 0:
        return known
    levels = np.log([known[half, half] + scale * rise for rise in LEVELS])
    budget = int(share * points**2)
    while len(known) < points**2:
        tested = max(budget // 6, _BATCH // 2)
        while (left := budget - tested - len(known)) > 0:
            chosen = _next_cells(known, points, levels, min(_BATCH, left))
            if not chosen:
                break
            known |= {cell: loss(cell) for cell in chosen}
        if _foretold(known, points, levels, loss, min(tested, points**2 - len(known))):
            break
        budget = max(budget, len(known)) + int(share / 2 * points**2)
    return known


_FEWEST = 9  # finite losses that a spline needs
_BATCH = 16  # cells between two interpolations
_OFF = 0.5  # cells that a contour may be off


def _foretold(
    known: dict[Cell, float], points: int, levels: np.ndarray, loss: Callable[[Cell], float], count: int
) -> bool:
    """Whether the interpolation knew the losses of new cells, which are known from then on."""
    with np.errstate(invalid="ignore"):
        logs, steepness, off = _contours(known, points, levels)
    near = _next_cells(known, points, levels, max(count // 2, 1))
    cells = [*near, *_farthest({**known, **dict.fromkeys(near, 0.0)}, np.full(logs.shape, True), count - len(near))]
    known |= {cell: loss(cell) for cell in cells}
    for column, row in cells:
        seen, said = _log(known[column, row]), logs[row, column]
        asked = off[row, column] < 1 or np.searchsorted(levels, seen) != np.searchsorted(levels, said)
        if asked and not abs(seen - said) / steepness[row, column] <= _OFF and np.isfinite(known[column, row]):
            return False
    return True


def _contours(known: Mapping[Cell, float], points: int, levels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Interpolated logarithms, how steep they are (a cell), and how many cells off the nearest contour is."""
    logs = np.log(np.clip(filled(known, points), 1e-12, 1e12))
    steepness = np.maximum(np.hypot(*np.gradient(logs)), 1e-9)
    return logs, steepness, (np.abs(logs - levels[:, None, None]) / steepness).min(0)


def _next_cells(known: Mapping[Cell, float], points: int, levels: np.ndarray, count: int) -> list[Cell]:
    """Cells near a contour of what is known, each as far from the known and the chosen as there is."""
    with np.errstate(invalid="ignore"):
        near = _contours(known, points, levels)[2] < 1  # false where the logarithm is not finite
    return _farthest(known, near, count)


def _farthest(known: Mapping[Cell, float], allowed: np.ndarray, count: int) -> list[Cell]:
    """At most ``count`` allowed cells, each as far from the known and the chosen as there is."""
    rows, columns = np.mgrid[: allowed.shape[0], : allowed.shape[1]]
    gap = np.full(allowed.shape, np.inf)
    for column, row in known:
        gap = np.minimum(gap, np.hypot(columns - column, rows - row))
    chosen: list[Cell] = []
    while len(chosen) < count:
        score = np.where(allowed, gap, 0)
        if score.max() < 1:
            break
        row, column = (int(place) for place in np.unravel_index(score.argmax(), score.shape))
        chosen.append((column, row))
        gap = np.minimum(gap, np.hypot(columns - column, rows - row))
    return chosen


def filled(known: Mapping[Cell, float], points: int) -> np.ndarray:
    """(points, points), row by second direction: known losses as they are, the rest from a cubic spline of their log.

    The rest is NaN where fewer than nine losses are finite.
    """
    from scipy.interpolate import RBFInterpolator

    cells = [cell for cell, value in known.items() if np.isfinite(value)]
    surface = np.full((points, points), np.nan)
    if len(cells) < _FEWEST:
        surface[tuple(np.array([(row, column) for column, row in known]).T)] = list(known.values())
        return surface
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
