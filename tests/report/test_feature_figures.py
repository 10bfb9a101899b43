"""The figures of features: matrices the right way round, the control in each, words that follow the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from mock_study import RANDOM_A, STUDENT, TEACHER

from fdlab.report.figures import available, cka, draw_figure, feature_spectrum, features, teacher, teacher_blocks

Facts = dict[str, Any]
NAMES = ("features", "cka", "feature_spectrum")


def test_matrices_are_mirrored_within_and_turned_between_models(table: pd.DataFrame) -> None:
    within = cka.matrix(table, TEACHER, TEACHER)
    np.testing.assert_allclose(np.diag(within), 1)
    np.testing.assert_allclose(within, within.T)
    chosen = (table["metric"] == "cka") & (table["model"] == TEACHER) & (table["reference"] == STUDENT)
    table.loc[chosen & (table["block"] == 3) & (table["x"] == 0), "value"] = 0.11
    assert cka.matrix(table, TEACHER, STUDENT)[3, 0] == 0.11  # rows are the blocks of the first model
    assert cka.matrix(table, STUDENT, TEACHER)[0, 3] == 0.11
    assert cka.cell(table, STUDENT, TEACHER, 0, 3).value == 0.11


def test_a_panel_shows_its_matrix(table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("cka", table, facts)
    grid = [axes for axes in drawn.axes if axes.axison and axes.collections and axes.get_title("left") == TEACHER]
    shown = np.asarray(grid[0].collections[0].get_array())
    np.testing.assert_allclose(shown, cka.matrix(table, TEACHER, TEACHER), atol=1e-8)


def test_the_untrained_control_stands_in_every_figure(table: pd.DataFrame, facts: Facts) -> None:
    assert set(NAMES) <= set(available(table))
    assert RANDOM_A in cka.shown(table, facts)
    for module in (features, feature_spectrum):
        assert RANDOM_A in set(module.numbers(table, facts)["model"])


def test_more_models_than_there_is_room_for_keep_the_pair_and_the_control(table: pd.DataFrame, facts: Facts) -> None:
    own = table[(table["metric"] == "cka") & (table["model"] == TEACHER) & (table["reference"] == "")]
    more = pd.concat([table, *(own.assign(model=f"further {i}", family="mim") for i in range(4))], ignore_index=True)
    kept = cka.shown(more, facts)
    assert len(kept) == cka.MOST
    assert {TEACHER, STUDENT, RANDOM_A} <= set(kept)
    assert "left out for room: 3 models" in cka.caption(more, facts)[0]


def test_captions_follow_the_numbers(table: pd.DataFrame, facts: Facts) -> None:
    assert "the intervals are separate" in features.caption(table, facts)[2]
    rank = (table["metric"] == "effective_rank") & (table["model"] == STUDENT)
    table.loc[rank, ["low", "high"]] = [1.0, 90.0]
    assert "not separated" in features.caption(table, facts)[2]
    assert "not separated" in feature_spectrum.caption(table, facts)[2]
    only = table[(table["model"] == TEACHER) & (table["reference"] == "")]
    for module in (features, cka, feature_spectrum):
        assert "no second model" in module.caption(only, {})[2]


def test_measures_that_were_not_taken_have_no_panel(table: pd.DataFrame, facts: Facts) -> None:
    some = table[~table["metric"].isin(["alignment", "uniformity"])]
    drawn = draw_figure("features", some, facts)
    assert sum(axes.axison for axes in drawn.axes) == 3
    assert "alignment" not in features.caption(some, facts)[0]


def test_what_the_blocks_hold_of_a_teacher_is_no_part_of_what_the_model_holds(
    table: pd.DataFrame, facts: Facts
) -> None:
    ours = table["metric"] == "teacher_r2"
    without = table[~(ours & table["block"].notna())]
    assert not teacher_blocks.present(without)
    assert teacher.numbers(table, facts).equals(teacher.numbers(without, facts))
    table.loc[ours & (table["model"] == STUDENT) & (table["block"] == 3), ["value", "low", "high"]] = [0.8, 0.78, 0.82]
    shown = teacher_blocks.numbers(table, facts)
    assert shown[shown["model"] == STUDENT]["teacher_r2 (95 %)"].iloc[-1].startswith("0.80")
    assert "separate" in teacher_blocks.caption(table, facts)[2]
    assert "above the grey line" in teacher_blocks.caption(table, facts)[3]
    table.loc[ours & (table["model"] == STUDENT), ["low", "high"]] = [0.0, 1.0]
    assert "not separated" in teacher_blocks.caption(table, facts)[2]
    trained = table[table["family"] != "random"]
    assert "grey" not in "".join(teacher_blocks.caption(trained, facts)[i] for i in (1, 3))
    assert "none stands here" in teacher.caption(trained, facts)[3]
    assert "grey markers was learnt" in teacher.caption(table, facts)[3]


def test_models_of_one_block_have_no_cka_figure(table: pd.DataFrame) -> None:
    own = table[table["metric"] == "cka"]
    between = own[own["reference"] != ""]
    assert cka.present(own)
    assert len(between)
    assert not cka.present(between)
