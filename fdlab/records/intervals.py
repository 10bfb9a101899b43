"""95 % intervals over images: t, bootstrap, jackknife, Wilson.

The method by kind of value (docs/intervals.md measures how often each holds the truth):

    a mean, a paired difference     Student's t; from 32 images on the outer ends of t and bootstrap-t
    a function of averages          jackknife; from 32 images on the expanded percentile bootstrap
    a spread over heads             by inverting a test (spread.py)
    over directions and images      two jackknives; from 32 images on the percentile bootstrap over both
    a statistic of a set of images  delete-a-group jackknife, of correlations (CKA) on Fisher's z
    a share of test images          Wilson
    a mean over seeds               Student's t; where they are positive and spread over decades, Cox's

The unit is always the image (axis 0): queries, heads and blocks of one image are not independent.
Values are (n,) or (n, ...); every trailing index gets its own interval. NaN values are left out. All
random numbers come from the seed, so that the same values give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fdlab.randomness import seed_for, stream
from fdlab.records.estimate import Estimate

METHOD = 4  # goes up when intervals of the same values change: stored records then get theirs anew from their arrays
BOOTSTRAP_FROM = 32  # below, percentile intervals are too short (coverage 0.88 at 8, 0.93 at 16)
FARTHEST = 2.0  # times Student's half-width: farther ends come from one odd image and cover no more
RESAMPLES = 1000
LEVEL = 0.95  # the confidence of every interval
Array = NDArray[Any]


def t_interval(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean -+ t * s / sqrt(n) over axis 0 (Student 1908); the ends are NaN for n < 2.

    >>> t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    Estimate(value=3.0, low=1.036756838..., high=4.963243161..., n=0)
    """
    x = _array(values)
    mean, half = _mean(x), _quantile(_count(x), level) * _error(x)
    return _interval(mean, mean - half, mean + half)


def skewed_interval(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """The mean of positive values that spread over decades, with ends that are positive too.

    Cox's interval on the logarithm, around the mean: mean * exp(-+ t * sqrt(v / n + v^2 / (2 (n + 1)))), v the variance
    of the logarithms (Olsson 2005; exact in the limit for log-normal values). docs/intervals.md has its coverage.

    >>> estimate = skewed_interval([8.0, 10.0, 12.5])
    >>> estimate.value, estimate.low, estimate.high
    (10.1667, 5.8104, 17.7891)
    """
    x = _array(values)
    v, n, mean = float(np.log(x).var(ddof=1)), len(x), float(x.mean())
    factor = math.exp(float(_quantile(_count(x), level)) * math.sqrt(v / n + v * v / (2 * (n + 1))))
    return Estimate(mean, mean / factor, mean * factor)


def mean_interval(values: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Estimate:
    """The mean over images: Student's t; from 32 (finite) images on, each end the outer one of t and bootstrap-t.

    The bootstrap-t (Efron & Tibshirani 1993, section 12.5) puts the quantiles of (resampled mean - mean) / (standard
    error of the resample) in the place of Student's. Skewed values need it; for heavy tails on both sides it is too
    short, and t is not. No end is farther than twice Student's, or outside the smallest and largest value.
    """
    x = _array(values)
    small = t_interval(x, level=level)
    if len(x) < BOOTSTRAP_FROM:
        return small
    n, mean, error = _count(x), _mean(x), _error(x)
    student = _quantile(n, level)
    resampled = np.clip(_studentised(x, mean, seed), -FARTHEST * student, FARTHEST * student)
    left, right = _quantiles(resampled, [0.5 - level / 2, 0.5 + level / 2])
    with np.errstate(invalid="ignore"):
        # a large studentised mean comes from a sample that lies too high: it moves the low end
        low = np.fmax(mean - np.fmax(right, student) * error, _least(x))
        high = np.fmin(mean + np.fmax(-left, student) * error, _most(x))
    enough = n >= BOOTSTRAP_FROM
    return _interval(mean, np.where(enough, low, small.low), np.where(enough, high, small.high))


def interval_of_means(
    values: ArrayLike, function: Callable[[Array], Array], seed: int = 0, *, level: float = LEVEL
) -> Estimate:
    """A function of the image averages, e.g. the area under an averaged curve.

    Args:
        values: (n, ...).
        function: (R, ...) -> (R, ...): works on many averages at once, the first axis is kept.

    Expanded percentile bootstrap over images from 32 on; below, the jackknife with a t quantile (Tukey 1958).
    """
    x = _array(values)
    value = function(_mean(x)[None])[0]
    n = len(x)
    if n >= BOOTSTRAP_FROM:
        return _percentiles(value, function(resampled_means(x, seed)), level, n)
    if n < 2:
        return _interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    half = _jackknife_half(value, function(_weighted_means(np.ones((n, n)) - np.eye(n), x)), level)
    return _interval(value, value - half, value + half)


def jackknife_interval(
    n: int, statistic: Callable[[Array], Any], *, folds: int = 16, correlation: bool = False, level: float = LEVEL
) -> Estimate:
    """A statistic of a set of images, with the delete-a-group jackknife and a t quantile (Tukey 1958).

    For statistics that repeated images would bias (CKA, rank, pairs), where the bootstrap is wrong.

    Args:
        n: images, at least 2.
        statistic: the indices of the kept images (m,) -> an array.
        folds: how many groups; image i is in group i modulo this.
        correlation: the statistic lies in [-1, 1], so the jackknife is taken on Fisher's z = artanh and its ends are
            brought back: they stay inside, and are uneven near 1.
    """
    images, count = np.arange(n), min(folds, n)
    value = np.asarray(statistic(images), dtype=np.float64)
    if count < 2:
        return _interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    without = np.stack([np.asarray(statistic(images[images % count != fold])) for fold in range(count)])
    if correlation:
        z = _fisher(value)
        half = _jackknife_half(z, _fisher(without), level)
        return _interval(value, np.minimum(np.tanh(z - half), value), np.maximum(np.tanh(z + half), value))
    half = _jackknife_half(value, without, level)
    return _interval(value, value - half, value + half)


def _fisher(values: Array) -> Array:
    """Fisher's z of correlations; 1 itself, which has none, stands a rounding error below."""
    return np.arctanh(np.clip(values, -1 + 1e-12, 1 - 1e-12))


def two_level_interval(
    values: ArrayLike, function: Callable[[Array], Array], seed: int = 0, *, level: float = LEVEL
) -> Estimate:
    """A function of the mean over directions and images, both drawn at random: each is resampled for itself.

    Args:
        values: (K, n, ...): K directions, n images.
        function: (R, ...) -> (R,): works on many means at once.

    Percentile bootstrap over both from 32 images on; below, jackknives over each with t quantiles, half-widths added
    in squares.
    """
    x = _array(values)
    count, n = x.shape[:2]
    value = float(np.asarray(function(x.mean((0, 1))[None]))[0])
    if n >= BOOTSTRAP_FROM:
        directions = _weights(seed_for(seed, "directions"), count, RESAMPLES) / count
        images = _weights(seed, n, RESAMPLES) / n
        flat = x.reshape(count, n, -1)
        means = np.einsum("rk,kna,rn->ra", directions, flat, images, optimize=True)
        return _percentiles(np.asarray(value), function(means.reshape(RESAMPLES, *x.shape[2:])), level)
    halves: list[float] = []
    for axis, size in ((0, count), (1, n)):
        means = np.asarray(x.mean(1 - axis))
        if size < 2:
            return Estimate(value, float("nan"), float("nan"))
        without = function(np.asarray((means.sum(0) - means) / (size - 1)))
        halves.append(float(_jackknife_half(value, np.asarray(without, dtype=np.float64), level)))
    half = float(np.hypot(halves[0], halves[1]))
    return Estimate(value, value - half, value + half)


def resampled_means(values: ArrayLike, seed: int = 0, *, resamples: int = RESAMPLES) -> Array:
    """(resamples, ...): means over resampled images, one matrix product; the same draws for every metric."""
    x = _array(values)
    return _weighted_means(_weights(seed, len(x), resamples), x)


def paired_difference_interval(first: ArrayLike, second: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Estimate:
    """Mean of ``first - second`` over the same images in the same order.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _array(first), _array(second)
    if a.shape != b.shape:
        raise ValueError(f"paired values need the same images: {a.shape} and {b.shape}")
    return mean_interval(a - b, seed, level=level)


def proportion_interval(correct: int, n: int, *, level: float = LEVEL) -> Estimate:
    """Share correct / n with Wilson's score interval (Wilson 1927), good for small n and near 0 and 1.

    >>> proportion_interval(10, 10)
    Estimate(value=1.0, low=0.7224672..., high=1.0, n=0)

    Raises:
        ValueError: not 0 <= correct <= n, or n = 0.
    """
    from scipy.special import ndtri

    if not (n > 0 and 0 <= correct <= n):
        raise ValueError(f"{correct} of {n} is no proportion")
    z, p = float(ndtri(0.5 + level / 2)), correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return Estimate(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))


# --- inside --------------------------------------------------------------------------------------------


def _array(values: ArrayLike) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError("an interval needs at least one value")
    return x


def _count(x: Array) -> Array:
    return np.asarray((~np.isnan(x)).sum(axis=0))


def _mean(x: Array) -> Array:
    n = _count(x)
    mean = np.nansum(x, axis=0) / np.where(n > 0, n, 1)
    # rounding must not put the mean of equal values beside them
    return np.where(n > 0, np.clip(mean, _least(x), _most(x)), np.nan)


def _least(x: Array) -> Array:
    return np.asarray(np.min(x, axis=0, initial=np.inf, where=~np.isnan(x)))


def _most(x: Array) -> Array:
    return np.asarray(np.max(x, axis=0, initial=-np.inf, where=~np.isnan(x)))


def _error(x: Array) -> Array:
    """The standard error of the mean; NaN for n < 2."""
    n = _count(x)
    squares = np.nansum((x - _mean(x)) ** 2, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(squares / np.where(n > 1, n - 1, np.nan) / n))


def _quantile(n: Array | int, level: float) -> Array:
    """Student's two-sided quantile for n values."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.maximum(np.asarray(n) - 1, 1), 0.5 + level / 2))


def _jackknife_half(value: Array | float, without: Array, level: float) -> Array:
    """Half the t-interval of the pseudo-values of a statistic; ``without`` (n, ...) leaves each unit out in turn."""
    n = len(without)
    pseudo = t_interval(n * value - (n - 1) * without, level=level)
    return np.asarray((np.asarray(pseudo.high) - np.asarray(pseudo.low)) / 2)


def _studentised(x: Array, mean: Array, seed: int) -> Array:
    """(R, ...): (resampled mean - mean) / its own standard error; infinite without spread, 0 for equal values."""
    centred = x.reshape(len(x), -1) - mean.reshape(1, -1)
    present = ~np.isnan(centred)
    centred = np.where(present, centred, 0.0)
    scale = np.abs(centred).max(0)
    centred /= np.where(scale > 0, scale, 1.0)  # squares neither vanish nor overflow
    weights = _weights(seed, len(x), RESAMPLES)
    counts = _counts(weights, present)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = weights @ centred / counts
        variance = np.maximum(weights @ centred**2 / counts - means**2, 0.0)
        studentised = means / np.sqrt(variance / (counts - 1))
    return np.where(np.isnan(studentised), 0.0, studentised).reshape(len(weights), *x.shape[1:])


@lru_cache(maxsize=4)
def _weights(seed: int, n: int, resamples: int) -> Array:
    """(resamples, n): how often each image is drawn."""
    return stream(seed, "bootstrap", n, resamples).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def _weighted_means(weights: Array, x: Array) -> Array:
    flat = x.reshape(len(x), -1)
    present = ~np.isnan(flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = weights @ np.where(present, flat, 0.0) / _counts(weights, present)
    return means.reshape(len(weights), *x.shape[1:])


def _counts(weights: Array, present: Array) -> Array:
    """How many values each weighted mean has: (R, columns), or (R, 1) where all are present."""
    return weights.sum(1, keepdims=True) if present.all() else np.asarray(weights @ present.astype(np.float64))


def _percentiles(value: Array, resampled: Array, level: float, n: int | None = None) -> Estimate:
    """Percentiles at this level, expanded to Student's quantile for n images where n is given."""
    from scipy.special import ndtr

    tail = 0.5 - level / 2 if n is None else float(ndtr(-_quantile(n, level) * np.sqrt(n / (n - 1))))
    with np.errstate(invalid="ignore"):
        low, high = _quantiles(resampled, [tail, 1 - tail])
    # a statistic that resampling biases (a maximum) can leave its own interval: widen to hold it
    return _interval(value, np.fmin(low, value), np.fmax(high, value))


def _quantiles(resampled: Array, at: list[float]) -> Array:
    if not np.isnan(resampled).any():
        return np.quantile(resampled, at, axis=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN columns stay NaN, as they should
        return np.nanquantile(resampled, at, axis=0)


def _interval(value: Any, low: Any, high: Any) -> Estimate:
    if np.ndim(value) == 0:
        return Estimate(float(value), float(low), float(high))
    return Estimate(np.asarray(value), np.asarray(low), np.asarray(high))
