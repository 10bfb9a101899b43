"""Models in stages: every block has its own uniform line, and pixels are not averaged over stages."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from mock_study import STUDENT, TEACHER

from fdlab.report.alerts import alerts
from fdlab.report.figures import figure_of
from fdlab.report.report import Report


def test_pixels_of_stages_have_no_mean_and_shares_keep_theirs(table: pd.DataFrame, facts: dict[str, Any]) -> None:
    staged = {**facts, "uniform_by_block_px": {STUDENT: [6.0, 6.0, 12.0, 24.0], TEACHER: [12.3] * 4}}
    found = Report(table, staged).summary().set_index("model")
    before = Report(table, facts).summary().set_index("model")
    assert math.isnan(found.loc[STUDENT, "late_distance"])
    assert math.isnan(found.loc[STUDENT, "late_distance_spread"])
    assert found.loc[STUDENT, "late_entropy"] == before.loc[STUDENT, "late_entropy"]
    assert found.loc[TEACHER, "late_distance"] == before.loc[TEACHER, "late_distance"]
    assert math.isnan(Report(table, staged).uniform_px(STUDENT))
    assert Report(table, staged).uniform_px(TEACHER) == 12.3


def test_each_block_is_held_against_its_own_line(table: pd.DataFrame, facts: dict[str, Any]) -> None:
    lines = [6.0, 6.0, 1000.0, 24.0]
    own = table["model"].eq(STUDENT) & table["metric"].eq("distance")
    table.loc[own, "value"] = 500.0
    table.loc[own & table["block"].eq(3), "value"] = 24.0
    staged = {**facts, "uniform_by_block_px": {STUDENT: lines}}
    near = "the mean distance over heads is near that of uniform attention in block 4; single heads may differ."
    assert f"{STUDENT}: {near}" in [alert.sentence for alert in alerts(Report(table, staged))]
    numbers = figure_of("attention_distance", Report(table, staged)).numbers()
    assert [float(text) for text in numbers.loc[numbers["model"] == STUDENT, "uniform"]] == lines
