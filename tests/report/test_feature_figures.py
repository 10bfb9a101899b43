"""The figures of features: matrices the right way round, the control in each, words that follow the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mock_study import RANDOM_A, STUDENT, TEACHER

from fdlab.report.figures import available, draw_figure, figure_of
from fdlab.report.figures.cka import MOST
from fdlab.report.report import Report

Facts = dict[str, Any]
NAMES = ("features", "cka", "feature_spectrum")


def test_matrices_are_mirrored_within_and_turned_between_models(table: pd.DataFrame) -> None:
    within = figure_of("cka", Report(table)).matrix(TEACHER, TEACHER)
    np.testing.assert_allclose(np.diag(within), 1)
    np.testing.assert_allclose(within, within.T)
    chosen = (table["metric"] == "cka") & (table["model"] == TEACHER) & (table["reference"] == STUDENT)
    table.loc[chosen & (table["block"] == 3) & (table["x"] == 0), "value"] = 0.11
    assert (
        figure_of("cka", Report(table)).matrix(TEACHER, STUDENT)[3, 0] == 0.11
    )  # rows are the blocks of the first model
    assert figure_of("cka", Report(table)).matrix(STUDENT, TEACHER)[0, 3] == 0.11
    assert figure_of("cka", Report(table)).cell(STUDENT, TEACHER, 0, 3).value == 0.11


def test_a_panel_shows_its_matrix(table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("cka", Report(table, facts))
    grid = [axes for axes in drawn.axes if axes.axison and axes.collections and axes.get_title("left") == TEACHER]
    shown = np.asarray(grid[0].collections[0].get_array())
    np.testing.assert_allclose(shown, figure_of("cka", Report(table)).matrix(TEACHER, TEACHER), atol=1e-8)


def test_the_untrained_control_stands_in_every_figure(table: pd.DataFrame, facts: Facts) -> None:
    assert set(NAMES) <= set(available(Report(table)))
    assert RANDOM_A in figure_of("cka", Report(table, facts)).names
    for figure in ("features", "feature_spectrum"):
        assert RANDOM_A in set(figure_of(figure, Report(table, facts)).numbers()["model"])


def test_more_models_than_there_is_room_for_keep_the_pair_and_the_control(table: pd.DataFrame, facts: Facts) -> None:
    own = table[(table["metric"] == "cka") & (table["model"] == TEACHER) & (table["reference"] == "")]
    more = pd.concat([table, *(own.assign(model=f"further {i}", family="mim") for i in range(4))], ignore_index=True)
    kept = figure_of("cka", Report(more, facts)).names
    assert len(kept) == MOST
    assert {TEACHER, STUDENT, RANDOM_A} <= set(kept)
    assert "left out for room: 3 models" in figure_of("cka", Report(more, facts)).caption()[0]


def test_captions_follow_the_numbers(table: pd.DataFrame, facts: Facts) -> None:
    third = figure_of("features", Report(table, facts)).caption()[2]
    assert f"{STUDENT} minus " in third and "no clear" not in third
    rank = (table["metric"] == "effective_rank") & (table["model"] == STUDENT)
    table.loc[rank, ["low", "high"]] = [1.0, 90.0]
    assert "no clear difference" in figure_of("features", Report(table, facts)).caption()[2]
    assert "no clear difference" in figure_of("feature_spectrum", Report(table, facts)).caption()[2]
    only = table[(table["model"] == TEACHER) & (table["reference"] == "")]
    for figure in ("features", "cka", "feature_spectrum"):
        assert "no second model" in figure_of(figure, Report(only)).caption()[2]


def test_measures_that_were_not_taken_have_no_panel(table: pd.DataFrame, facts: Facts) -> None:
    some = table[~table["metric"].isin(["alignment", "uniformity"])]
    drawn = draw_figure("features", Report(some, facts))
    assert sum(axes.axison for axes in drawn.axes) == 3
    assert "alignment" not in figure_of("features", Report(some, facts)).caption()[0]


def test_what_the_blocks_hold_of_a_teacher_is_no_part_of_what_the_model_holds(
    table: pd.DataFrame, facts: Facts
) -> None:
    ours = table["metric"] == "teacher_r2"
    without = table[~(ours & table["block"].notna())]
    assert not figure_of("teacher_blocks", Report(without)).present
    assert (
        figure_of("teacher", Report(table, facts))
        .numbers()
        .equals(figure_of("teacher", Report(without, facts)).numbers())
    )
    table.loc[ours & (table["model"] == STUDENT) & (table["block"] == 3), ["value", "low", "high"]] = [0.8, 0.78, 0.82]
    shown = figure_of("teacher_blocks", Report(table, facts)).numbers()
    assert shown[shown["model"] == STUDENT]["teacher_r2 (95 %)"].iloc[-1].startswith("0.80")
    assert "no clear" not in figure_of("teacher_blocks", Report(table, facts)).caption()[2]
    assert "above the grey line" in figure_of("teacher_blocks", Report(table, facts)).caption()[3]
    table.loc[ours & (table["model"] == STUDENT), ["low", "high"]] = [0.0, 1.0]
    assert "no clear difference" in figure_of("teacher_blocks", Report(table, facts)).caption()[2]
    trained = table[table["family"] != "random"]
    assert "grey" not in "".join(figure_of("teacher_blocks", Report(trained, facts)).caption()[i] for i in (1, 3))
    assert "none stands here" in figure_of("teacher", Report(trained, facts)).caption()[3]
    assert "grey markers was learnt" in figure_of("teacher", Report(table, facts)).caption()[3]


def test_models_of_one_block_have_no_cka_figure(table: pd.DataFrame) -> None:
    own = table[table["metric"] == "cka"]
    between = own[own["reference"] != ""]
    assert figure_of("cka", Report(own)).present
    assert len(between)
    assert not figure_of("cka", Report(between)).present
