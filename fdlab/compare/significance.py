"""Student's t for a few units, Holm's correction, and the answers of a claim: no torch, no table.

Every p value is two-sided and agrees with the 95 % interval: it is below 0.05 exactly where the interval lies beyond
the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.records.intervals import LEVEL, t_interval

ALPHA = 0.05  # the largest p value that decides


def even(units: np.ndarray) -> bool:
    """Whether units are equal up to rounding: then nothing is known of their scatter, and nothing can be tested."""
    return bool(np.ptp(units) <= 1e-12 * max(1.0, float(np.abs(units).max())))


def mean_of_units(units: Sequence[float] | np.ndarray, value: float | None = None) -> Estimate:
    """The mean of units with its t-interval (Student 1908); equal units have an interval without width.

    >>> mean_of_units([1.0, 2.0, 3.0])
    Estimate(value=2.0, low=-0.4841377118..., high=4.4841377118..., n=3)

    Args:
        units: (n,) differences, one a seed or an image; or jackknife pseudo-values of a statistic (Tukey 1958).
            Values that are not finite are left out.
        value: the statistic itself, where it is not the mean of the units.
    """
    x = np.asarray(units, dtype=np.float64)
    x = x[np.isfinite(x)]
    if not len(x):
        return UNKNOWN
    mean = t_interval(x)
    centre = mean.value if value is None else value
    half = 0.0 if len(x) > 1 and even(x) else mean.high - mean.value
    return Estimate(centre, centre - half, centre + half, len(x))


def weighted_sum(parts: Iterable[tuple[float, Estimate]], n: int = 0) -> Estimate:
    """The sum of factor * value of independent estimates whose intervals may be of any kind, also uneven ones.

    On each side the distances to the ends are added in squares (Zou & Donner 2008; for two proportions with Wilson's
    intervals this is Newcombe 1998, method 10).

    >>> weighted_sum([(1.0, Estimate(5.0, 2.0, 9.0)), (-1.0, Estimate(1.0, 0.0, 5.0))])
    Estimate(value=4.0, low=-1.0, high=8.12310562561766, n=0)
    """
    value, below, above = 0.0, 0.0, 0.0
    for factor, part in parts:
        ends = sorted((factor * part.low, factor * part.high))
        value += factor * part.value
        below, above = (
            math.hypot(below, factor * part.value - ends[0]),
            math.hypot(above, ends[1] - factor * part.value),
        )
    return Estimate(value, value - below, value + above, n)


def beyond(effect: Estimate, threshold: float, *, above: bool, freedom: float | None = None) -> float:
    """Two-sided p that the effect lies above (or below) the threshold; 1 where nothing can be tested.

    Args:
        freedom: of Student's t, n - 1 by default; infinity is the normal distribution.
    """
    from scipy.special import ndtr, stdtr

    side = effect.value - effect.low if above else effect.high - effect.value
    if not (effect.bounded and side > 0):
        return 1.0
    freedom = effect.n - 1 if freedom is None else freedom
    t = (effect.value - threshold) / side * quantile(freedom) * (1 if above else -1)
    return min(1.0, 2 * float(ndtr(-t) if math.isinf(freedom) else stdtr(freedom, -t)))


def two_sided(effect: Estimate, freedom: float | None = None) -> float:
    """Two-sided p of no effect, in agreement with the 95 % interval; ``freedom`` as in ``beyond``."""
    return min(beyond(effect, 0.0, above=side, freedom=freedom) for side in (True, False))


def within(effect: Estimate, margin: float, freedom: float | None = None) -> float:
    """p that the effect lies within ``-margin`` to ``margin``: the larger of two one-sided tests (Schuirmann 1987).

    It is below 0.05 exactly where the 90 % interval lies within; 1 where there is no margin.
    """
    if not margin > 0:
        return 1.0
    outside = beyond(effect, -margin, above=True, freedom=freedom), beyond(effect, margin, above=False, freedom=freedom)
    return max(outside) / 2


def for_and_against(
    effect: Estimate, direction: str, margin: float = 0.0, freedom: float | None = None
) -> tuple[float, float]:
    """(p that the statement holds, p that it does not), for a statement of one direction.

    ``up``: the effect is above 0; ``down``: below 0; ``not up``: below ``margin``; ``not down``: above ``-margin``;
    ``none``: within both (``within``), against which an effect beyond either speaks. ``freedom`` as in ``beyond``.
    """

    def p(threshold: float, above: bool) -> float:
        return beyond(effect, threshold, above=above, freedom=freedom)

    if direction == "none":
        return within(effect, margin, freedom), min(p(-margin, False), p(margin, True))
    above = direction in ("up", "not down")
    threshold = {"not up": margin, "not down": -margin}.get(direction, 0.0)
    return p(threshold, above), p(threshold, not above)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Holm 1979), in the order given.

    >>> [round(value, 12) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def quantile(freedom: float, alpha: float = 1 - LEVEL) -> float:
    """Of Student's t: two-sided, ``alpha`` in both tails; an infinite ``freedom`` is the normal distribution."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(1 - alpha / 2) if math.isinf(freedom) else stdtrit(freedom, 1 - alpha / 2))
