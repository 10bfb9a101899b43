"""A mean over training seeds with its interval, where the groups of one study lend each other their scatter; and what
a design could have found.

With three seeds a group's own standard deviation has two degrees of freedom, and its t-interval is 4.3 standard errors
wide on each side. Groups that were trained alike (the kinds of teacher of one study) scatter about alike, so that
their variances are averaged, weighted by their degrees of freedom, as in an analysis of variance (Fisher 1925). A group
may scatter more than the others: it is given its own standard deviation where this is the larger one, and its own
degrees of freedom too where its variance is above ``APART`` times the average. Plain pooling would call one null effect
in seven significant in the widest of three groups with standard deviations 0.5, 1 and 1.5 (docs/intervals.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fdlab.compare.significance import ALPHA, even, quantile
from fdlab.records.estimate import UNKNOWN, Estimate

ENOUGH = 8  # from so many seeds on, each group's own scatter is known well enough and is used instead
APART = 2.0  # times the average variance: a group beyond it lends and borrows nothing
POWER = 0.8  # the power of the smallest effect that a design could have found


class OverSeeds(NamedTuple):
    """A mean over seeds.

    ``change`` has its 95 % interval and the number of seeds, ``sd`` is the standard deviation of one seed's value
    (NaN where nothing is known of it), ``freedom`` its degrees of freedom, ``pooled`` how many groups it rests on.
    """

    change: Estimate
    sd: float
    freedom: int
    pooled: int


def over_seeds(groups: Mapping[str, Sequence[float]]) -> dict[str, OverSeeds]:
    """The mean of each group's seeds; the scatter is pooled where some group has fewer than ``ENOUGH`` seeds.

    >>> found = over_seeds({"a": [1.0, 2.0, 3.0], "b": [5.0, 6.0, 7.0]})
    >>> found["a"].freedom, [round(end, 3) for end in found["a"].change[:3]]
    (4, [2.0, 0.397, 3.603])

    Args:
        groups: name -> (n,) values, one a seed, that are not the same models; values that are not finite are left
            out. Equal values count as no scatter at all: their interval has no width, and they lend nothing.
    """
    units = {name: np.asarray(values, dtype=np.float64) for name, values in groups.items()}
    units = {name: x[np.isfinite(x)] for name, x in units.items()}
    scattered = {name: x for name, x in units.items() if len(x) > 1 and not even(x)}
    if min((len(x) for x in scattered.values()), default=0) >= ENOUGH:
        return {name: _mean(x, {name: x} if name in scattered else {}) for name, x in units.items()}
    return {name: _mean(x, scattered) for name, x in units.items()}


def _mean(x: np.ndarray, scattered: Mapping[str, np.ndarray]) -> OverSeeds:
    """The mean of ``x`` with the scatter of several groups."""
    if not len(x):
        return OverSeeds(UNKNOWN, math.nan, 0, 0)
    value = float(x.mean())
    if len(x) == 1:
        return OverSeeds(Estimate(value, math.nan, math.nan, 1), math.nan, 0, 0)
    if even(x):
        return OverSeeds(Estimate(value, value, value, len(x)), 0.0, len(x) - 1, 1)
    freedom = sum(len(other) - 1 for other in scattered.values())
    variance = sum(float(((other - other.mean()) ** 2).sum()) for other in scattered.values()) / freedom
    own = float(x.var(ddof=1))
    pooled = len(scattered)
    if own > APART * variance:
        freedom, pooled = len(x) - 1, 1
    sd = math.sqrt(max(own, variance))
    half = quantile(freedom) * sd / math.sqrt(len(x))
    return OverSeeds(Estimate(value, value - half, value + half, len(x)), sd, freedom, pooled)


def power(effect: float, sd: float, n: int, freedom: float, alpha: float = ALPHA) -> float:
    """How often a two-sided t-test of ``n`` seeds finds a true effect, on its own side.

    From the noncentral t distribution with noncentrality ``effect / (sd / sqrt(n))`` (Owen 1965).

    >>> round(power(1.0, 0.5, 4, 3), 3)
    0.755
    """
    from scipy.stats import nct, norm

    if not (sd > 0 and n > 1):
        return math.nan
    shift, edge = abs(effect) / sd * math.sqrt(n), quantile(freedom, alpha)
    return float(norm.sf(edge - shift) if math.isinf(freedom) else nct.sf(edge, freedom, shift))


def smallest_found(sd: float, n: int, freedom: float, alpha: float = ALPHA, wanted: float = POWER) -> float:
    """The smallest true effect that this many seeds find with the wanted power, in the unit of ``sd``.

    >>> round(smallest_found(1.0, 20, 19), 2)
    0.66

    Args:
        alpha: the level that the test is held to: ALPHA over the number of tests, where it is one of several.
    """
    from scipy.optimize import brentq

    if not (sd > 0 and n > 1):
        return math.nan
    top = 2 * quantile(freedom, alpha) * sd / math.sqrt(n)
    while power(top, sd, n, freedom, alpha) < wanted:
        top *= 2
    return float(brentq(lambda effect: power(effect, sd, n, freedom, alpha) - wanted, 0.0, top, xtol=1e-9))
