"""lr_width, smoothing and pace against answers worked out by hand, and properties on any curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdlab.measures.trainability import lr_width, smoothed, steps_to


def test_a_tent_has_the_width_of_its_two_crossings() -> None:
    # Falls by 0.04 a decade on the left and by 0.02 on the right: 0.01 below the top after 1/4 and 1/2 decade.
    found = lr_width([1e-4, 1e-3, 1e-2], [0.86, 0.90, 0.88])
    assert found.decades == pytest.approx(0.75)
    assert not found.open_below
    assert not found.open_above


def test_a_flat_curve_is_open_on_both_sides() -> None:
    found = lr_width([1e-4, 1e-3, 1e-2], [0.9, 0.9, 0.9])
    assert found == (pytest.approx(2.0), True, True)


def test_a_second_hill_does_not_count() -> None:
    apart = lr_width([1e-4, 1e-3, 1e-2, 1e-1], [0.90, 0.70, 0.70, 0.895])
    assert apart.decades == pytest.approx(0.05)  # 0.01 of a fall of 0.2 over one decade, on one side
    assert apart.open_below


def test_the_range_ends_before_a_rate_that_diverged() -> None:
    found = lr_width([1e-3, 1e-2, 1e-1], [0.895, 0.90, np.nan])
    assert found == (pytest.approx(1.0), True, False)


@pytest.mark.parametrize(
    ("rates", "accuracies"), [([1e-3], [0.5]), ([1e-2, 1e-3], [0.5, 0.5]), ([1e-3, 1e-2], [np.nan, np.nan])]
)
def test_no_grid_is_refused(rates: list[float], accuracies: list[float]) -> None:
    with pytest.raises(ValueError, match="lr_width needs"):
        lr_width(rates, accuracies)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(0.001, 0.2))
def test_width_is_within_the_grid_and_grows_with_the_tolerance(accuracies: list[float], within: float) -> None:
    rates = 10.0 ** np.arange(len(accuracies))
    narrow, wide = (lr_width(rates, accuracies, w).decades for w in (within, 2 * within))
    assert 0 <= narrow <= wide <= len(accuracies) - 1 + 1e-9


def test_smoothing_looks_back_only() -> None:
    assert smoothed([6.0, 3.0, 0.0, 3.0]).tolist() == [6.0, 4.5, 3.0, 2.0]


def test_pace_is_interpolated_and_nan_where_never_reached() -> None:
    assert steps_to([10, 20, 30], [3.0, 2.0, 1.0], 1.5) == 25.0
    assert steps_to([10, 20, 30], [3.0, 2.0, 1.0], 5.0) == 10.0
    assert np.isnan(steps_to([10, 20, 30], [3.0, 2.0, 1.0], 0.5))
