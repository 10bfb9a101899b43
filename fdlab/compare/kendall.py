"""Kendall's tau-b for few models: exact permutation p, an interval that holds for small n, what leaving out changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fdlab.compare.significance import ALPHA
from fdlab.randomness import stream

ALL_ORDERS = 8  # up to here every order of tied values is tried; above, DRAWS random ones
DRAWS = 20_000
SIMULATED = 20  # up to here intervals come from simulation; above, from Fieller's variance
SAMPLES = 2000
CLOSE = 1e-5  # taus of up to 300 models are farther apart than this
Array = NDArray[np.float64]


def tau_b(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Kendall's tau-b (Kendall 1945) over the last axis: (..., n), (..., n) -> (...); NaN where one is constant.

    tau_b = sum_{i<j} s_ij t_ij / sqrt(sum s_ij^2 sum t_ij^2), with s, t the signs of the differences of x and of y.

    >>> float(tau_b([1, 2, 3, 4], [1, 2, 4, 3]))
    0.6666666666666666
    """
    a, b = signs(np.asarray(x, dtype=np.float64)), signs(np.asarray(y, dtype=np.float64))
    untied = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / untied


def signs(x: Array) -> Array:
    """The signs of the differences of all pairs i < j of the last axis: (..., n) -> (..., n (n - 1) / 2)."""
    first, second = np.triu_indices(x.shape[-1], 1)
    return np.sign(x[..., first] - x[..., second])


def p_value(x: ArrayLike, y: ArrayLike, seed: int = 0) -> float:
    """Two-sided p of no association: the share of all orders whose |tau-b| is at least as large.

    Exact without ties (scipy, Kendall 1938) and, with ties, up to ``ALL_ORDERS`` models; above, by random orders
    ((hits + 1) / (draws + 1)). NaN where tau-b is undefined.

    >>> p_value([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])  # two of 120 orders
    0.016666666666666666
    """
    from scipy.stats import kendalltau

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, tau = len(x), abs(float(tau_b(x, y)))
    if not math.isfinite(tau):
        return math.nan
    if len(set(x)) == n == len(set(y)):
        return float(kendalltau(x, y, method="exact").pvalue)
    if n <= ALL_ORDERS:
        orders = np.array(list(permutations(range(n))))
        return float((np.abs(tau_b(x, y[orders])) >= tau - CLOSE).mean())
    orders = stream(seed, "orders", n).permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    return float(((np.abs(tau_b(x, y[orders])) >= tau - CLOSE).sum() + 1) / (DRAWS + 1))


def smallest_p(n: int) -> float:
    """The p of a perfect ranking of n models, the smallest that there is: 2 / n!.

    >>> smallest_p(5)
    0.016666666666666666
    """
    return min(1.0, 2 / math.factorial(n))


def fewest(tests: int) -> int:
    """The fewest models (or lineages) of which a perfect ranking is significant after correction for so many tests.

    >>> fewest(1), fewest(26)
    (5, 7)
    """
    n = 2
    while smallest_p(n) * tests > ALPHA:
        n += 1
    return n


def interval(tau: float, n: int) -> tuple[float, float]:
    """95 % interval of the tau of the population that n models with this tau-b come from; NaN for n < 3.

    Up to ``SIMULATED`` models: all tau that the observed one does not contradict (each tail 2.5 %) when pairs of
    values come from a Gaussian copula, by simulation; tau has few values at small n, so it covers more often than 95 %.
    Above: Fisher's z with variance 0.437 / (n - 4) (Fieller, Hartley & Pearson 1957). Ties are not modelled.
    """
    if n < 3 or not math.isfinite(tau):
        return math.nan, math.nan
    if n > SIMULATED:
        centre, half = np.arctanh(min(max(tau, -0.999999), 0.999999)), 1.959964 * math.sqrt(0.437 / (n - 4))
        return float(np.tanh(centre - half)), float(np.tanh(centre + half))
    true, sampled = _simulated(n)
    above = (sampled >= tau - CLOSE).mean(1)  # rises with the true tau
    below = (sampled <= tau + CLOSE).mean(1)  # falls
    tail = ALPHA / 2
    low = -1.0 if above[0] > tail else float(np.interp(tail, np.maximum.accumulate(above), true))
    high = 1.0 if below[-1] > tail else float(np.interp(-tail, np.maximum.accumulate(-below), true))
    return min(low, tau), max(high, tau)


@lru_cache
def _simulated(n: int) -> tuple[Array, NDArray[np.float32]]:
    """True taus (G,) and the taus of samples of n pairs (G, SAMPLES), from the same normal draws for every true tau."""
    draw = stream(0, "kendall", n)
    x, noise = draw.normal(size=(SAMPLES, n)), draw.normal(size=(SAMPLES, n))
    true = np.sin(np.linspace(-1, 1, 61) * np.pi / 2)  # denser towards the ends
    true[[0, -1]] = -0.9999, 0.9999
    r = np.sin(np.pi * true / 2)  # correlation of normal pairs with this tau
    of_x = signs(x).astype(np.int8)
    pairs = of_x.shape[-1]
    sampled = [
        (of_x * signs(rho * x + math.sqrt(1 - rho * rho) * noise).astype(np.int8)).sum(-1, dtype=np.int32) / pairs
        for rho in r
    ]
    return true, np.array(sampled, dtype=np.float32)


def left_out(x: ArrayLike, y: ArrayLike, groups: Sequence[str]) -> tuple[float, float]:
    """The lowest and highest tau-b when one group (a model, a family) is left out; NaN where too few models remain."""
    x, y, names = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), np.asarray(groups)
    taus = [float(tau_b(x[names != name], y[names != name])) for name in dict.fromkeys(groups)]
    if len(taus) < 2 or not all(math.isfinite(tau) for tau in taus):
        return math.nan, math.nan
    return min(taus), max(taus)
