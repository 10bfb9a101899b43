"""How widely and how fast a model fine-tunes, from accuracies over a grid of learning rates and from a loss curve."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

WITHIN = 0.01  # accuracy points below the best that still count, 1 = 100 %


class Width(NamedTuple):
    """Decades of the learning rate near the best, and whether the grid ended first on either side."""

    decades: float
    open_below: bool
    open_above: bool


def lr_width(rates: ArrayLike, accuracies: ArrayLike, within: float = WITHIN) -> Width:
    """Decades of the learning rate, around the best one, at which accuracy is within ``within`` of the best.

    Between grid points the accuracy is taken as linear in log10 of the rate. Beside a rate that diverged (NaN) the
    range ends at the last rate that did not.

    Args:
        rates: (m,) positive and ascending. accuracies: (m,) shares; NaN: no result.

    Raises:
        ValueError: fewer than two rates, rates that do not ascend, or no accuracy at all.

    >>> lr_width([1e-4, 1e-3, 1e-2, 1e-1], [0.5, 0.9, 0.9, 0.5]).open_below
    False
    """
    x, y = np.log10(np.asarray(rates, float)), np.asarray(accuracies, float)
    if len(x) < 2 or len(x) != len(y) or not (np.diff(x) > 0).all() or np.isnan(y).all():
        raise ValueError("lr_width needs two or more ascending rates and an accuracy")
    best = int(np.nanargmax(y))
    level = y[best] - within
    low, open_below = _reach(x[best::-1], y[best::-1], level)
    high, open_above = _reach(x[best:], y[best:], level)
    return Width(high - low, open_below, open_above)


def _reach(x: np.ndarray, y: np.ndarray, level: float) -> tuple[float, bool]:
    """Where the line through the points, from the first on, first falls below ``level``; whether it never does."""
    for i in range(len(x) - 1):
        if np.isnan(y[i + 1]):
            return float(x[i]), False
        if y[i + 1] < level:
            share = (y[i] - level) / (y[i] - y[i + 1])
            return float(x[i] + share * (x[i + 1] - x[i])), False
    return float(x[-1]), True


def smoothed(losses: ArrayLike, window: int = 3) -> np.ndarray:
    """The mean of each loss and up to ``window`` - 1 before it, so that no later loss is used.

    >>> smoothed([3.0, 1.0, 2.0], window=2).tolist()
    [3.0, 2.0, 1.5]
    """
    values = np.asarray(losses, float)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def steps_to(steps: ArrayLike, losses: ArrayLike, target: float) -> float:
    """The step at which a loss curve first reaches ``target``, linear between its points; NaN where it never does.

    >>> steps_to([0, 10, 20], [3.0, 2.0, 1.0], target=1.5)
    15.0
    """
    x, y = np.asarray(steps, float), np.asarray(losses, float)
    below = np.flatnonzero(y <= target)
    if len(below) == 0:
        return float("nan")
    first = int(below[0])
    if first == 0:
        return float(x[0])
    share = (y[first - 1] - target) / (y[first - 1] - y[first])
    return float(x[first - 1] + share * (x[first] - x[first - 1]))
