"""Known answers: counts by hand, all orders inside lineages by brute force, Kendall's exact p for one lineage."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from fdlab.compare.within import within
from fdlab.randomness import stream


@pytest.mark.parametrize("ties", [False, True])
def test_p_counts_all_orders_inside_lineages(ties: bool) -> None:
    draw, names = stream(int(ties), "within"), ["a"] * 4 + ["b"] * 3 + ["c"]
    x, y = draw.normal(size=(2, 8))
    x, y = (np.round(x), np.round(y)) if ties else (x, y)
    found = within(x, y, names)

    def total(order: np.ndarray) -> int:
        blocks = (range(4), range(4, 7))
        return (
            sum(
                int(np.sign(x[i] - x[j]) * np.sign(order[i] - order[j]))
                for block in blocks
                for i in block
                for j in block
            )
            // 2
        )

    orders = [np.array([*first, *second, y[7]]) for first, second in product(permutations(y[:4]), permutations(y[4:7]))]
    assert found.concordant - found.discordant == total(y) and found.pairs == 9
    assert found.p == pytest.approx(np.mean([abs(total(order)) >= abs(total(y)) for order in orders]))


def test_one_lineage_is_kendalls_own_test_and_none_is_nothing() -> None:
    x, y = stream(3, "within").normal(size=(2, 9))
    alone = within(x, y, ["a"] * 9)
    known = stats.kendalltau(x, y, method="exact")
    assert (alone.tau, alone.p) == (pytest.approx(known.statistic), pytest.approx(known.pvalue))
    assert alone.one_lineage
    apart = within(x, y, list("abcdefghi"))
    assert apart.pairs == 0 and math.isnan(apart.tau) and math.isnan(apart.p)


def test_many_tied_models_are_drawn_and_p_is_never_zero() -> None:
    x = np.repeat(np.arange(6.0), 2)
    found = within(x, x, ["a"] * 12)
    assert found.tau == pytest.approx(1) and 0 < found.p < 1e-3 and found.p == within(x, x, ["a"] * 12).p
