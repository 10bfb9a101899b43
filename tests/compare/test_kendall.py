"""Known answers: scipy's tau-b and exact p, all orders by hand, coverage of the interval on pairs of known tau."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fdlab.compare.kendall import interval, left_out, p_value, smallest_p, tau_b
from fdlab.randomness import stream

PAIRS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-3, 3).map(float), min_size=n, max_size=n)] * 2)
)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_tau_b_is_scipys_with_any_ties(pair: tuple[list[float], list[float]]) -> None:
    assert float(tau_b(*pair)) == pytest.approx(stats.kendalltau(*pair).statistic, nan_ok=True)


@pytest.mark.parametrize("n", [3, 5, 9, 30])
def test_p_without_ties_is_the_exact_one(n: int) -> None:
    draw = stream(n, "p")
    for _ in range(5):
        x, y = draw.normal(size=n), draw.normal(size=n)
        assert p_value(x, y) == pytest.approx(stats.kendalltau(x, y, method="exact").pvalue, rel=1e-6)


def test_p_with_ties_counts_orders() -> None:
    x, y = [1.0, 1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 3.0, 5.0]
    taus = [abs(stats.kendalltau(x, order).statistic) for order in permutations(y)]
    assert p_value(x, y) == pytest.approx(np.mean(np.array(taus) >= taus[0] - 1e-9))
    many = stream(0, "ties").integers(0, 4, (2, 15)).astype(float)  # too many orders: drawn
    assert p_value(*many) == pytest.approx(stats.kendalltau(*many).pvalue, abs=0.08)
    assert p_value(*many) == p_value(*many)
    assert math.isnan(p_value([1, 1, 1], [1, 2, 3]))


def test_four_models_can_show_nothing_and_five_only_a_perfect_order() -> None:
    order = np.arange(5.0)
    assert smallest_p(4) == pytest.approx(1 / 12) and p_value(order[:4], order[:4]) == pytest.approx(1 / 12)
    assert smallest_p(5) == pytest.approx(1 / 60) and p_value(order, order) == pytest.approx(1 / 60)
    assert interval(1.0, 4)[0] < 0 < interval(1.0, 5)[0]
    assert interval(0.8, 5)[0] < 0  # one pair swapped
    assert interval(-1.0, 5)[1] < 0
    assert all(map(math.isnan, interval(1.0, 2)))


@pytest.mark.parametrize(("n", "true"), [(5, 0.0), (6, 0.3), (8, 0.6), (12, 0.8), (24, 0.3)])
def test_intervals_cover_the_tau_of_normal_pairs(n: int, true: float) -> None:
    draw = stream(n, "coverage")
    r = math.sin(math.pi * true / 2)
    x, noise = draw.normal(size=(2, 1500, n))
    taus, counts = np.unique(np.round(tau_b(x, r * x + math.sqrt(1 - r * r) * noise), 6), return_counts=True)
    covered = [low <= true <= high for low, high in (interval(float(tau), n) for tau in taus)]
    assert (np.array(covered) * counts).sum() / counts.sum() >= 0.935  # few values of tau: mostly above 0.95


def test_leaving_out_shows_what_one_model_or_family_does() -> None:
    x, y = [1.0, 2.0, 3.0, 10.0], [3.0, 2.0, 1.0, 10.0]
    low, high = left_out(x, y, list("abcd"))
    assert (low, high) == (pytest.approx(-1.0), pytest.approx(1 / 3))
    assert left_out(x, y, list("aaab")) == (math.nan, math.nan) or all(map(math.isnan, left_out(x, y, list("aaab"))))
    families = left_out([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0], ["p", "p", "q", "q"])
    assert families == (-1.0, 1.0)
