"""Student's t for a few units, Holm's correction, and the three answers of a claim: no torch, no table.

Every p value is two-sided, so that it agrees with a 95 % interval: an effect beyond a threshold has p = 2 P(T > t).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.05


class Change(NamedTuple):
    """An effect over units (seeds or images): its value, 95 % interval, standard error and number of units."""

    value: float
    low: float
    high: float
    error: float
    n: int
    freedom: float  # of Student's t; infinity: normal

    @property
    def known(self) -> bool:
        """Whether anything can be tested: units that do not scatter at all tell nothing of their scatter."""
        return math.isfinite(self.value) and math.isfinite(self.error) and self.error > 0


def change_of(units: Sequence[float] | np.ndarray, value: float | None = None) -> Change:
    """The mean of units with its t-interval (Student 1908).

    Args:
        units: (n,) differences, one a seed or an image; or jackknife pseudo-values of a statistic (Tukey 1958).
        value: the statistic itself, where it is not the mean of the units.
    """
    x = np.asarray(units, dtype=np.float64)
    x = x[np.isfinite(x)]
    n = len(x)
    centre = float(np.mean(x)) if n else math.nan
    error = float(np.std(x, ddof=1) / np.sqrt(n)) if n > 1 else math.nan
    if error < 1e-12 * max(abs(centre), 1e-300):  # equal up to rounding
        error = 0.0
    return change_with(centre if value is None else value, error, n, n - 1)


def change_with(value: float, error: float, n: int, freedom: float = math.inf) -> Change:
    """An effect whose standard error is known."""
    half = _quantile(freedom) * error if math.isfinite(error) else math.nan
    return Change(value, value - half, value + half, error, n, freedom)


def beyond(change: Change, threshold: float, *, above: bool) -> float:
    """Two-sided p that the effect lies above (or below) the threshold; 1 where nothing can be tested."""
    from scipy.special import ndtr, stdtr

    if not change.known:
        return 1.0
    t = (change.value - threshold) / change.error * (1 if above else -1)
    tail = ndtr(-t) if math.isinf(change.freedom) else stdtr(change.freedom, -t)
    return min(1.0, 2 * float(tail))


def for_and_against(change: Change, direction: str, smallest: float = 0.0) -> tuple[float, float]:
    """(p that the statement holds, p that it does not), for a statement of one direction.

    ``up``: the effect is above ``smallest``; ``down``: below ``-smallest``; ``not up``: below ``smallest``;
    ``not down``: above ``-smallest``; ``none``: within both (two one-sided tests, Schuirmann 1987).
    """
    if direction == "none":
        ends = (change, -smallest), (change, smallest)
        inside = max(beyond(*ends[0], above=True), beyond(*ends[1], above=False))
        return inside, min(beyond(*ends[0], above=False), beyond(*ends[1], above=True))
    above = direction in ("up", "not down")
    threshold = smallest if direction in ("up", "not up") else -smallest
    return beyond(change, threshold, above=above), beyond(change, threshold, above=not above)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def _quantile(freedom: float) -> float:
    from scipy.special import ndtri, stdtrit

    if freedom < 1:
        return math.nan
    return float(ndtri(1 - LEVEL / 2) if math.isinf(freedom) else stdtrit(freedom, 1 - LEVEL / 2))
