"""Kendall's tau inside groups of related models: concordant and discordant pairs, and an exact permutation p.

Only pairs of one lineage are compared, so what sets whole lineages apart cannot enter. Under the null hypothesis the
models of a lineage are exchangeable; lineages are permuted independently of each other, so the null distribution of
the sum is the convolution of those of the lineages, whatever the correlation between models of one lineage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fdlab.compare.kendall import ALL_ORDERS, DRAWS, signs
from fdlab.randomness import stream

Array = NDArray[np.float64]


class Within(NamedTuple):
    """Pairs inside lineages: how many are ordered alike and the other way round, of how many; tau-b over them."""

    concordant: int
    discordant: int
    pairs: int
    tau: float
    p: float
    by_lineage: dict[str, int]  # concordant minus discordant, of the lineages that have several models

    @property
    def one_lineage(self) -> bool:
        """Whether the sign of the difference hangs on one lineage: without it, it is gone or reversed."""
        total = self.concordant - self.discordant
        return any((total - part) * total <= 0 for part in self.by_lineage.values())


def within(x: ArrayLike, y: ArrayLike, lineages: Sequence[str], seed: int = 0) -> Within:
    """Kendall's tau-b over the pairs of models of one lineage, with its two-sided permutation p.

    tau_within = sum s_ij t_ij / sqrt(sum s_ij^2 sum t_ij^2) over i < j of one lineage, s and t the signs of the
    differences of x and of y. p is the share of all orders inside lineages with |sum s_ij t_ij| at least as large:
    exact without ties, and with ties up to ``ALL_ORDERS`` models a lineage; above by random orders. Without pairs, tau
    and p are NaN.

    >>> within([1, 2, 3, 10, 30, 20], [1, 2, 3, 1, 2, 3], ["a"] * 3 + ["b"] * 3)[:3]
    (5, 1, 6)

    Args:
        x, y: (n,) values of the models. lineages: (n,) their names.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    names, by_lineage = np.asarray(lineages), {}
    untied_x = untied_y = pairs = concordant = discordant = 0
    chance = {0: 1.0}
    for name in dict.fromkeys(lineages):
        a, b = x[names == name], y[names == name]
        if len(a) < 2:
            continue
        s, t = signs(a), signs(b)
        pairs, untied_x, untied_y = pairs + len(s), untied_x + int((s * s).sum()), untied_y + int((t * t).sum())
        concordant, discordant = concordant + int((s * t > 0).sum()), discordant + int((s * t < 0).sum())
        by_lineage[name] = int((s * t).sum())
        chance = _added(chance, _null(a, b, seed))
    if not untied_x * untied_y:
        return Within(concordant, discordant, pairs, math.nan, math.nan, by_lineage)
    total = concordant - discordant
    p = sum(share for value, share in chance.items() if abs(value) >= abs(total))
    return Within(concordant, discordant, pairs, total / math.sqrt(untied_x * untied_y), min(1.0, p), by_lineage)


def _null(x: Array, y: Array, seed: int) -> dict[int, float]:
    """The share of orders of y that give each sum of s_ij t_ij."""
    n = len(x)
    if len(set(x)) == n == len(set(y)):
        return _untied(n)
    if n <= ALL_ORDERS:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = stream(seed, "within", n).permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
        orders[0] = np.arange(n)  # the order that was seen is one of them, so that p is never 0
    sums, counts = np.unique((signs(x) * signs(y[orders])).sum(-1), return_counts=True)
    return {int(value): count / len(orders) for value, count in zip(sums, counts, strict=True)}


@lru_cache
def _untied(n: int) -> dict[int, float]:
    """Kendall's null distribution without ties: the m-th model is put in front of 0 to m of those before it."""
    shares = np.ones(1)
    for m in range(1, n):
        shares = np.convolve(shares, np.full(m + 1, 1 / (m + 1)))
    pairs = n * (n - 1) // 2
    return {pairs - 2 * inversions: float(share) for inversions, share in enumerate(shares)}


def _added(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    """The distribution of a sum of two independent numbers."""
    sums: dict[int, float] = {}
    for a, p in first.items():
        for b, q in second.items():
            sums[a + b] = sums.get(a + b, 0.0) + p * q
    return sums
