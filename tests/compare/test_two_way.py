"""Effects of two factors against numbers made from known effects, their sum, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdlab.compare.two_way import EFFECTS, two_way
from fdlab.records.intervals import t_interval
from fdlab.records.table import frame

PLACES = {
    "m": ("masked", "plain", False),
    "m, distilled": ("masked", "plain", True),
    "m, student": ("masked", "student", False),
    "m, student, distilled": ("masked", "student", True),
}


def rows_of(corners: Any, metric: str = "nmi") -> list[dict[str, Any]]:
    """Corners (seeds, 4) in the order of PLACES."""
    return [
        {"model": label, "family": "mim", "seed": seed, "probe": "cells", "metric": metric, "value": value}
        for seed, line in enumerate(corners)
        for label, value in zip(PLACES, line, strict=True)
    ]


def effect(table: Any, name: str) -> Any:
    return table[table["reference"] == name].iloc[0]


def test_known_effects_are_found_again() -> None:
    base, design, distillation, interaction = 10.0, 2.0, -3.0, 0.8
    corners = []
    for seed in range(3):
        p0 = base + 5 * seed  # the seeds' own level cancels
        p1, s0 = p0 + distillation - interaction / 2, p0 + design - interaction / 2
        corners.append([p0, p1, s0, s0 + distillation + interaction / 2])
    table = two_way(frame(rows_of(corners)), PLACES, {"masked": "mim"})
    found = {name: effect(table, name) for name in EFFECTS}
    assert found["design"]["value"] == pytest.approx(design)
    assert found["distillation"]["value"] == pytest.approx(distillation)
    assert found["interaction"]["value"] == pytest.approx(interaction)
    assert found["together"]["value"] == pytest.approx(design + distillation)
    assert found["design"]["n"] == 3
    assert np.isnan(found["design"]["low"])  # seeds without scatter give no interval


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=2, max_size=5))
def test_design_and_distillation_sum_to_the_papers_comparison(corners: list[list[float]]) -> None:
    table = two_way(frame(rows_of(corners)), PLACES, {})
    parts = effect(table, "design")["value"] + effect(table, "distillation")["value"]
    assert parts == pytest.approx(effect(table, "together")["value"], abs=1e-9)


def test_the_interval_is_students_t_over_seeds() -> None:
    corners = [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 4.0, 4.0]]
    own = effect(two_way(frame(rows_of(corners)), PLACES, {}), "design")
    assert (own["value"], own["low"], own["high"]) == pytest.approx(t_interval(np.array([1.0, 2.0, 4.0]))[:3])


def test_a_seed_without_all_four_models_does_not_count() -> None:
    rows = rows_of([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 9, 9]])
    rows[-1]["value"] = np.nan  # it diverged
    own = effect(two_way(frame(rows), PLACES, {}), "design")
    assert (own["n"], own["value"]) == (2, 1.5)


def test_measures_of_one_metric_stay_apart() -> None:
    rows = [{**row, "x": 20.0} for row in rows_of([[0, 0, 1, 1]] * 2, "accuracy")]
    rows += [{**row, "x": 200.0} for row in rows_of([[0, 0, 3, 3]] * 2, "accuracy")]
    table = two_way(frame(rows), PLACES, {})
    assert table[table["reference"] == "design"]["value"].tolist() == [1.0, 3.0]
