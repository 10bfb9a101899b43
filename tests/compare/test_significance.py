"""Known answers: Holm's textbook example, Student's t against scipy, the three answers of a direction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fdlab.compare.significance import for_and_against, holm, mean_of_units, weighted_sum
from fdlab.randomness import stream
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import proportion_interval


def test_holm_on_textbook_examples() -> None:
    # Wright 1992, table 1: adjusted values of four p values
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])  # never above one, never out of order
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_t_is_scipys() -> None:
    units = stream(0, "t").normal(0.4, 1, 9)
    change = mean_of_units(units)
    expected = stats.ttest_1samp(units, 0.1)
    assert for_and_against(change, "not down", -0.1)[0] == pytest.approx(
        stats.ttest_1samp(units, 0.1, alternative="greater").pvalue * 2
    )
    assert min(for_and_against(change, "not down", -0.1)) == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (change.low, change.high, change.n) == (pytest.approx(low), pytest.approx(high), 9)


def normal(value: float, error: float) -> Estimate:
    """An effect of many units whose standard error is known."""
    half = float(stats.norm.ppf(0.975)) * error
    return Estimate(value, value - half, value + half, 100)


@pytest.mark.parametrize(
    ("direction", "value", "holds"),
    [
        ("up", 2.0, True),
        ("up", 0.5, True),  # above 0: whether it matters is for ``within`` to say
        ("up", -0.5, False),
        ("down", -2.0, True),
        ("down", 0.5, False),
        ("not up", 0.5, True),
        ("not up", 2.0, False),
        ("not down", -0.5, True),
        ("not down", -2.0, False),
        ("none", 0.2, True),
        ("none", 2.0, False),
        ("none", -2.0, False),
    ],
)
def test_directions_with_a_margin_of_one(direction: str, value: float, holds: bool) -> None:
    p_for, p_against = for_and_against(normal(value, 0.1), direction, 1.0, math.inf)
    assert (p_for < 0.001) == holds
    assert (p_against < 0.001) == (not holds)


def test_equivalence_is_two_one_sided_tests() -> None:
    change = normal(0.0, 0.5)
    assert for_and_against(change, "none", 1.0, math.inf)[0] == pytest.approx(stats.norm.sf(2))
    assert for_and_against(normal(0.0, 5.0), "none", 1.0, math.inf)[0] > 0.4  # wide intervals support nothing


@pytest.mark.parametrize("units", [[0.3], [0.3, 0.3, 0.3], [math.nan, 1.0], []])
def test_units_without_scatter_test_nothing(units: list[float]) -> None:
    assert for_and_against(mean_of_units(np.array(units)), "up") == (1.0, 1.0)


def test_the_difference_of_two_proportions_is_newcombes() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 873), table II, method 10: 56 of 70 against 48 of 80."""
    parts = [(1.0, proportion_interval(56, 70)), (-1.0, proportion_interval(48, 80))]
    change = weighted_sum(parts, 70)
    assert (change.value, change.low, change.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert for_and_against(change, "not down", -change.low, math.inf)[0] == pytest.approx(
        0.05
    )  # p and the interval agree
    assert for_and_against(change, "not up", change.high, math.inf)[0] == pytest.approx(0.05)


def test_p_values_are_right_where_nothing_is_true() -> None:
    """At the border of the claim, each false answer comes up in at most 2.5 % of studies with three seeds."""
    draw = stream(1, "null")
    answers = np.array([for_and_against(mean_of_units(draw.normal(0, 1, 3)), "up") for _ in range(4000)])
    rates = (answers <= 0.05).mean(0)
    assert rates == pytest.approx([0.025, 0.025], abs=0.008)
