"""The spread over heads on heads whose true spread is known: equal heads have 0, and unequal ones their own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fdlab.randomness import stream
from fdlab.records.spread import SPREADS, combined_spread, spread_over_heads
from tests.benchmarks.spread_coverage import covered, true_heads


@pytest.mark.parametrize("metric", SPREADS)
@pytest.mark.parametrize(("heads", "apart"), [(2, 0.0), (12, 0.0), (12, 0.3), (4, 1.0)])
@pytest.mark.parametrize("images", [8, 32])
def test_the_truth_is_held(metric: str, heads: int, apart: float, images: int) -> None:
    found = covered(metric, heads, apart, images, trials=60)
    assert found.held >= 0.8  # of 60; the plain range and its bootstrap: 0 for equal heads, 0.26 for 12 at .3
    assert abs(found.bias) < (0.5 if apart else 2.5) / math.sqrt(images)


@pytest.mark.parametrize("metric", SPREADS)
def test_equal_heads_have_a_value_of_0_about_every_second_time(metric: str) -> None:
    zero = [
        spread_over_heads(stream(seed, "equal").normal(20, 3, (32, 1, 8)), metric).value[0] == 0 for seed in range(80)
    ]
    assert 0.3 < np.mean(zero) < 0.7


def test_what_moves_all_heads_of_an_image_is_no_noise_between_them() -> None:
    draw = stream(0, "shared")
    values = np.array([10.0, 11.0, 13.0]) + draw.normal(0, 9, (16, 1, 1)) + draw.normal(0, 0.01, (16, 1, 3))
    found = spread_over_heads(values, "distance_spread")
    assert found.value[0] == pytest.approx(3.0, abs=0.02)
    assert found.high[0] - found.low[0] < 0.05


def test_known_spreads_without_noise() -> None:
    values = np.broadcast_to(np.array([1.0, 2.0, 6.0]), (9, 1, 3))
    assert [part[0] for part in spread_over_heads(values, "distance_spread")[:3]] == pytest.approx([5.0] * 3)
    assert [part[0] for part in spread_over_heads(values, "distance_sd")[:3]] == pytest.approx([math.sqrt(7)] * 3)


@pytest.mark.parametrize("metric", SPREADS)
def test_one_head_is_undefined_one_image_has_no_interval_and_absent_heads_are_left_out(metric: str) -> None:
    draw = stream(0, "few")
    one = draw.normal(0, 1, (20, 2, 1))
    found = spread_over_heads(one, metric)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert math.isnan(combined_spread([(1.0, one), (-1.0, one + 1)], metric).value)
    single = spread_over_heads(np.array([[[1.0, 3.0]]]), metric)
    assert single.value[0] > 0 and math.isnan(single.low[0]) and math.isnan(single.high[0])
    two = draw.normal([3.0, 5.0], 1, (20, 1, 2))
    padded = np.concatenate([two, np.full((20, 1, 2), np.nan)], -1)
    np.testing.assert_array_equal(spread_over_heads(padded, metric).value, spread_over_heads(two, metric).value)


@pytest.mark.parametrize("metric", SPREADS)
def test_a_difference_of_models_holds_the_true_one(metric: str) -> None:
    near, far, held = true_heads(6, 0.3), true_heads(6, 1.0), []
    truth = float(SPREADS[metric](far) - SPREADS[metric](near))
    for seed in range(60):
        draw = stream(seed, "two models")
        image = draw.normal(0, 1, (32, 3, 6))  # both models look at the same images
        models = [heads + image + draw.normal(0, 0.7, (32, 3, 6)) for heads in (far, near)]
        change = combined_spread([(1.0, models[0]), (-1.0, models[1])], metric)
        back = combined_spread([(1.0, models[1]), (-1.0, models[0])], metric)
        held.append(change.low <= truth <= change.high)
        assert (back.value, back.low, back.high) == pytest.approx((-change.value, -change.high, -change.low))
    assert np.mean(held) >= 0.85


def test_the_same_model_twice_differs_by_nothing() -> None:
    values = stream(0, "twice").normal(0, 1, (32, 3, 6)) + true_heads(6, 1.0)
    change = combined_spread([(1.0, values), (-1.0, values)], "distance_spread")
    assert change.value == pytest.approx(0.0, abs=1e-12)
    # Zou & Donner's ends of one estimate less itself meet up to the unevenness of its interval
    assert change.high - change.low < 0.3
