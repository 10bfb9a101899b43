"""How far the heads of a block lie apart, without the noise of their means: range and standard deviation over heads.

The range and deviation of noisy head means are larger than those of the true ones: heads that are equal have a range
above 0 in every sample. So the spread is asked for under which the observed one is the median, and its interval holds
the spreads under which the observed one is no rarer than 2.5 % on either side (an interval by inverting a test; Efron
& Tibshirani 1993, section 12.3). The true heads are taken to have the shape of the observed ones, drawn in or out to
the asked spread; their means' noise is multivariate t with the covariance over images, so that what moves all heads of
an image together cancels. The shape is the one approximation: it matters least where heads are equal or far apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fdlab.randomness import stream
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import LEVEL

Array = NDArray[Any]
DRAWS = 1000
GRID = 41  # asked spreads; between them the quantiles are interpolated
FEWEST = 2  # heads, and images


def head_range(means: Array) -> Array:
    """(..., heads) -> (...): the largest less the smallest."""
    return np.asarray(means.max(-1) - means.min(-1))


def head_deviation(means: Array) -> Array:
    """(..., heads) -> (...): the standard deviation (n - 1)."""
    return np.asarray(means.std(-1, ddof=1))


SPREADS: dict[str, Callable[[Array], Array]] = {"distance_spread": head_range, "distance_sd": head_deviation}


class Signed(NamedTuple):
    """A corrected spread before it is cut at 0 (negative: less than noise alone would show), its ends, its noise."""

    value: float
    low: float
    high: float
    drawn: Array  # (DRAWS,): the observed spread under noise around the observed heads


def spread_over_heads(values: ArrayLike, metric: str, seed: int = 0, *, level: float = LEVEL) -> Estimate:
    """The spread over heads of every block, with its interval; never negative.

    Args:
        values: (n, blocks, heads) of each image, NaN for heads that a block does not have.
        metric: a key of ``SPREADS``.

    Returns:
        Arrays of (blocks,). NaN for a block of one head; of one image the plain spread without an interval.
    """
    x = np.asarray(values, dtype=np.float64)
    signed = _signed(x, metric, seed, level)
    parts = np.array([[part.value, part.low, part.high] for part in signed]).reshape(-1, 3)
    value, low, high = np.maximum(parts, 0.0).T
    return Estimate(value, low, high, len(x))


def combined_spread(
    terms: Sequence[tuple[float, ArrayLike]], metric: str, seed: int = 0, *, level: float = LEVEL
) -> Estimate:
    """The sum of factor * mean over blocks of the spread over heads, of models on the same images.

    The ends of all blocks are joined as ``weighted_sum`` does for independent estimates, here with the correlation
    that the shared images give them (Zou & Donner 2008). Corrected spreads below 0 count as such: cutting each at 0
    would raise the mean of many.

    Args:
        terms: (factor, (n, blocks, heads)); the images of all are the same, in the same order.

    Returns:
        One number; unknown where a block has one head, without ends where there is one image.
    """
    arrays = [(factor, np.asarray(values, dtype=np.float64)) for factor, values in terms]
    parts = [
        (factor / values.shape[1], part) for factor, values in arrays for part in _signed(values, metric, seed, level)
    ]
    factors = np.array([factor for factor, _ in parts])
    centre, low, high = np.array([[part.value, part.low, part.high] for _, part in parts]).T
    value = float(factors @ centre)
    below = factors * np.where(factors > 0, centre - low, centre - high)
    above = factors * np.where(factors > 0, high - centre, low - centre)
    together = _correlation(np.stack([part.drawn for _, part in parts]))
    signs = np.sign(factors)[:, None] * np.sign(factors)
    down, up = (float(np.sqrt(max(side @ (together * signs) @ side, 0.0))) for side in (below, above))
    return Estimate(value, value - down, value + up, len(arrays[0][1]))


def _signed(values: Array, metric: str, seed: int, level: float) -> list[Signed]:
    noise = _multipliers(seed, len(values))
    return [_of_block(values[:, block], SPREADS[metric], noise, level) for block in range(values.shape[1])]


def _of_block(values: Array, spread: Callable[[Array], Array], noise: Array, level: float) -> Signed:
    """``values`` (n, heads) of one block."""
    values = values[:, ~np.isnan(values).all(0)]
    unknown = np.full(len(noise), np.nan)
    if values.shape[1] < FEWEST:
        return Signed(np.nan, np.nan, np.nan, unknown)
    means = np.nanmean(values, 0)
    seen = float(spread(means))
    if len(values) < FEWEST:
        return Signed(seen, np.nan, np.nan, unknown)
    known = (~np.isnan(values)).sum(0)
    errors = noise @ np.nan_to_num(values - means) / np.sqrt(known * np.maximum(known - 1, 1))
    errors -= errors.mean(-1, keepdims=True)
    shape = (means - means.mean()) / seen if seen > 0 else np.zeros_like(means)
    alone = spread(errors)  # of equal heads
    most = max(seen + float(alone.max()), 3 * float(alone.max()))
    asked = most * np.linspace(0, 1, GRID) ** 1.5
    drawn = spread(asked[:, None, None] * shape + errors)  # (GRID, DRAWS)
    tail = 0.5 - level / 2
    curves = np.quantile(drawn, [0.5, 1 - tail, tail], axis=1)
    value, low, high = (_solved(asked, curve, seen) for curve in curves)
    return Signed(value, min(low, value), max(high, value), spread(means + errors))


def _solved(asked: Array, curve: Array, seen: float) -> float:
    """Where a quantile of the observed spread, as a function of the true one, is ``seen``; odd around 0."""
    rising = np.maximum.accumulate(curve) - curve[0]
    return float(np.sign(seen - curve[0]) * np.interp(abs(seen - curve[0]), rising, asked))


def _multipliers(seed: int, n: int) -> Array:
    """(DRAWS, n) normal numbers whose rows are divided by chi / sqrt(freedom): of Student's t with n - 1 degrees."""
    draw = stream(seed, "spread", n)
    freedom = max(n - 1, 1)
    return np.asarray(draw.standard_normal((DRAWS, n)) * np.sqrt(freedom / draw.chisquare(freedom, (DRAWS, 1))))


def _correlation(drawn: Array) -> Array:
    """(K, K) of K spreads over the draws; what does not scatter is correlated with nothing."""
    centred = drawn - drawn.mean(1, keepdims=True)
    size = np.sqrt((centred**2).sum(1, keepdims=True))
    centred = np.divide(centred, size, out=np.zeros_like(centred), where=size > 0)
    return np.asarray(centred @ centred.T)
