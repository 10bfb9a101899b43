"""95 % intervals over images: t, bootstrap, jackknife, Wilson.

The unit is always the image (axis 0): queries, heads and blocks of one image are not independent.
Values are (n,) or (n, ...); every trailing place gets its own interval. NaN values are left out. All
random numbers come from the seed, so that the same values give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fdlab.randomness import seed_for, stream

BOOTSTRAP_FROM = 32  # below, percentile intervals are too short (coverage 0.88 at 8, 0.93 at 16)
RESAMPLES = 1000
LEVEL = 0.95
Array = NDArray[Any]


class Interval(NamedTuple):
    """A value with its interval: floats for one-dimensional input, else arrays."""

    value: Any
    low: Any
    high: Any


def t_interval(values: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Mean -+ t * s / sqrt(n) over axis 0 (Student 1908); the ends are NaN for n < 2."""
    from scipy.special import stdtrit

    x = _array(values)
    n, mean = _count(x), _mean(x)
    squares = np.nansum((x - mean) ** 2, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(squares / np.where(n > 1, n - 1, np.nan) / n)
        half = stdtrit(np.maximum(n - 1, 1), 0.5 + level / 2) * error
    return _interval(mean, mean - half, mean + half)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[Array], Any] | None = None,
    seed: int = 0,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap over images (Efron 1979).

    Args:
        values: (n, ...), n >= 32.
        statistic: (n, ...) -> a number or an array; the mean over axis 0 by default (much faster).

    Raises:
        ValueError: fewer than 32 images.
    """
    x = _array(values)
    _enough(len(x))
    if statistic is None:
        return _percentiles(_mean(x), resampled_means(x, seed, resamples=resamples), level)
    draws = stream(seed, "bootstrap", len(x), resamples).integers(0, len(x), (resamples, len(x)))
    return _percentiles(np.asarray(statistic(x)), np.stack([np.asarray(statistic(x[d])) for d in draws]), level)


def mean_interval(values: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Interval:
    """The mean over images with its interval: bootstrap from 32 (finite) images on, else t."""
    x = _array(values)
    small = t_interval(x, level=level)
    if len(x) < BOOTSTRAP_FROM:
        return small
    large = bootstrap_interval(x, None, seed, level=level)
    enough = _count(x) >= BOOTSTRAP_FROM
    return _interval(*(np.where(enough, a, b) for a, b in zip(large, small, strict=True)))


def interval_of_means(
    values: ArrayLike, function: Callable[[Array], Array], seed: int = 0, *, level: float = LEVEL
) -> Interval:
    """A function of the image averages, e.g. their largest difference over heads.

    Args:
        values: (n, ...).
        function: (R, ...) -> (R, ...): works on many averages at once, the first axis is kept.

    Bootstrap over images from 32 on; below, the jackknife with a t quantile (Tukey 1958).
    """
    x = _array(values)
    value = function(_mean(x)[None])[0]
    n = len(x)
    if n >= BOOTSTRAP_FROM:
        return _percentiles(value, function(resampled_means(x, seed)), level)
    if n < 2:
        return _interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    without = function(_weighted_means((np.ones((n, n)) - np.eye(n)), x))
    pseudo = t_interval(n * value - (n - 1) * without, level=level)
    half = (np.asarray(pseudo.high) - np.asarray(pseudo.low)) / 2
    return _interval(value, value - half, value + half)


def jackknife_interval(n: int, statistic: Callable[[Array], Any], *, folds: int = 16, level: float = LEVEL) -> Interval:
    """A statistic of a set of images, with the delete-a-group jackknife and a t quantile (Tukey 1958).

    For statistics that repeated images would bias (CKA, rank, pairs), where the bootstrap is wrong.

    Args:
        n: images, at least 2.
        statistic: the kept image numbers (m,) -> an array.
        folds: how many groups; image i is in group i modulo this.
    """
    places, count = np.arange(n), min(folds, n)
    value = np.asarray(statistic(places), dtype=np.float64)
    if count < 2:
        return _interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    without = np.stack([np.asarray(statistic(places[places % count != fold])) for fold in range(count)])
    pseudo = t_interval(count * value - (count - 1) * without, level=level)
    half = (np.asarray(pseudo.high) - np.asarray(pseudo.low)) / 2
    return _interval(value, value - half, value + half)


def two_level_interval(
    values: ArrayLike, function: Callable[[Array], Array], seed: int = 0, *, level: float = LEVEL
) -> Interval:
    """A function of the mean over directions and images, both drawn at random: each is resampled for itself.

    Args:
        values: (K, n, ...): K directions, n images.
        function: (R, ...) -> (R,): works on many means at once.

    Bootstrap over both from 32 images on; below, jackknives over each with t quantiles, half-widths added in squares.
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
            return Interval(value, float("nan"), float("nan"))
        without = function(np.asarray((means.sum(0) - means) / (size - 1)))
        pseudo = t_interval(size * value - (size - 1) * np.asarray(without, dtype=np.float64), level=level)
        halves.append((float(pseudo.high) - float(pseudo.low)) / 2)
    half = float(np.hypot(halves[0], halves[1]))
    return Interval(value, value - half, value + half)


def resampled_means(values: ArrayLike, seed: int = 0, *, resamples: int = RESAMPLES) -> Array:
    """(resamples, ...): means over resampled images, one matrix product; the same draws for every metric."""
    x = _array(values)
    return _weighted_means(_weights(seed, len(x), resamples), x)


def paired_difference_interval(first: ArrayLike, second: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Interval:
    """Mean of ``first - second`` over the same images in the same order.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _array(first), _array(second)
    if a.shape != b.shape:
        raise ValueError(f"paired values need the same images: {a.shape} and {b.shape}")
    return mean_interval(a - b, seed, level=level)


def proportion_interval(correct: int, n: int, *, level: float = LEVEL) -> Interval:
    """Share correct / n with Wilson's score interval (Wilson 1927), good for small n and near 0 and 1.

    Raises:
        ValueError: not 0 <= correct <= n, or n = 0.
    """
    from scipy.special import ndtri

    if not (n > 0 and 0 <= correct <= n):
        raise ValueError(f"{correct} of {n} is no proportion")
    z, p = float(ndtri(0.5 + level / 2)), correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return Interval(p, min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))


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
    low = np.min(x, axis=0, initial=np.inf, where=~np.isnan(x))
    high = np.max(x, axis=0, initial=-np.inf, where=~np.isnan(x))
    return np.where(n > 0, np.clip(mean, low, high), np.nan)


@lru_cache(maxsize=4)
def _weights(seed: int, n: int, resamples: int) -> Array:
    """(resamples, n): how often each image is drawn."""
    return stream(seed, "bootstrap", n, resamples).multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def _weighted_means(weights: Array, x: Array) -> Array:
    flat = x.reshape(len(x), -1)
    present = ~np.isnan(flat)
    counts = weights @ present.astype(np.float64) if not present.all() else weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = weights @ np.where(present, flat, 0.0) / counts
    return means.reshape(len(weights), *x.shape[1:])


def _percentiles(value: Array, resampled: Array, level: float) -> Interval:
    with np.errstate(invalid="ignore"):
        low, high = _quantiles(resampled, [0.5 - level / 2, 0.5 + level / 2])
    # a statistic that resampling biases (a maximum) can leave its own interval: widen to hold it
    return _interval(value, np.fmin(low, value), np.fmax(high, value))


def _quantiles(resampled: Array, at: list[float]) -> Array:
    if not np.isnan(resampled).any():
        return np.quantile(resampled, at, axis=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN columns stay NaN, as they should
        return np.nanquantile(resampled, at, axis=0)


def _interval(value: Any, low: Any, high: Any) -> Interval:
    if np.ndim(value) == 0:
        return Interval(float(value), float(low), float(high))
    return Interval(np.asarray(value), np.asarray(low), np.asarray(high))


def _enough(n: int) -> None:
    if n < BOOTSTRAP_FROM:
        raise ValueError(f"{n} images are too few for a bootstrap (at least {BOOTSTRAP_FROM}): use t_interval")
