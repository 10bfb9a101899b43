"""Known answers: the analysis of variance by hand, scipy's t, and powers that a simulation agrees with."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fdlab.compare.over_seeds import ENOUGH, over_seeds, power, smallest_found
from fdlab.compare.significance import for_and_against, holm
from fdlab.randomness import stream


def test_three_groups_of_three_lend_each_other_their_scatter() -> None:
    groups = {"a": [0.0, 1.0, 2.0], "b": [1.1, 0.0, 0.4], "c": [0.1, 1.4, -0.2]}
    found = over_seeds(groups)
    variance = sum(float(np.var(values, ddof=1)) for values in groups.values()) / 3
    for name, values in groups.items():
        sd = max(variance**0.5, float(np.std(values, ddof=1)))  # never smaller than its own
        half, change = stats.t.ppf(0.975, 6) * sd / 3**0.5, found[name].change
        assert (change.value, change.n) == (pytest.approx(np.mean(values)), 3)
        assert (change.low, change.high) == (pytest.approx(change.value - half), pytest.approx(change.value + half))
        assert (found[name].sd, found[name].freedom, found[name].pooled) == (pytest.approx(sd), 6, 3)


def test_a_group_that_scatters_far_more_stands_alone() -> None:
    groups = {"a": [-1.65, -1.40, -1.45], "b": [1.0, -2.5, 0.9], "c": [0.1, 0.4, -0.2]}
    found = over_seeds(groups)
    low, high = stats.ttest_1samp(groups["b"], 0).confidence_interval()
    assert (found["b"].change.low, found["b"].change.high) == (pytest.approx(low), pytest.approx(high))
    assert (found["b"].freedom, found["b"].pooled) == (2, 1)
    assert found["a"].freedom == 6 and found["a"].sd > 1.0  # an sd of 0.13 over three seeds is luck


@pytest.mark.parametrize("scatters", [(1.0, 1.0, 1.0), (0.5, 1.0, 1.5), (0.13, 1.92, 0.28)])
def test_groups_of_other_scatter_do_not_make_effects(scatters: tuple[float, ...]) -> None:
    """Where nothing is true, some of three groups is significant after Holm in at most 5 % of studies."""
    draw, hits, studies = stream(0, "unequal"), 0, 600
    for _ in range(studies):
        found = over_seeds({str(i): draw.normal(0, scatter, 3) for i, scatter in enumerate(scatters)})
        hits += min(holm([min(for_and_against(f.change, "up", 0, f.freedom)) for f in found.values()])) <= 0.05
    assert hits / studies < 0.072  # 5 %, and what 600 studies may add by chance


def test_enough_seeds_stand_alone() -> None:
    values = stream(0, "seeds").normal(0.3, 1, ENOUGH)
    alone = over_seeds({"a": values, "b": 100 * values})["a"]
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert (alone.change.low, alone.change.high) == (pytest.approx(low), pytest.approx(high))
    assert (alone.freedom, alone.pooled) == (ENOUGH - 1, 1)


def test_one_seed_no_seed_and_equal_seeds_are_said() -> None:
    found = over_seeds({"one": [2.0], "none": [math.nan], "even": [1.0, 1.0, 1.0], "two": [0.0, 1.0]})
    assert found["one"].change.value == 2.0 and not found["one"].change.bounded
    assert not found["none"].change.known and found["none"].change.n == 0
    assert found["even"].change[:3] == (1.0, 1.0, 1.0) and found["even"].sd == 0
    assert found["two"].freedom == 1  # neither of the others lent it anything


@pytest.mark.parametrize(("n", "sd", "effect"), [(3, 1.0, 3.0), (8, 1.0, 1.2), (20, 0.68, 0.5)])
def test_power_is_what_a_simulation_counts(n: int, sd: float, effect: float) -> None:
    draws = stream(0, f"power {n}").normal(effect, sd, (20_000, n))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(n))
    counted = float((t > stats.t.ppf(0.975, n - 1)).mean())
    assert power(effect, sd, n, n - 1) == pytest.approx(counted, abs=0.012)


def test_smallest_found_has_the_wanted_power() -> None:
    effect = smallest_found(0.84, 8, 7, alpha=0.05 / 8)
    assert power(effect, 0.84, 8, 7, alpha=0.05 / 8) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(smallest_found(0.0, 8, 7)) and math.isnan(power(1.0, 1.0, 1, 0))
