"""The figures of attribution follow their rows, and say where nothing is defined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mock_study import RANDOM_A, STUDENT, TEACHER

from fdlab.report.figures import available, draw_figure, figure_of
from fdlab.report.report import Report

Facts = dict[str, Any]


@pytest.fixture
def own(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["probe"] == "attribution"]


def alone(table: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    kept = table[table["model"] == TEACHER].copy()
    kept.loc[kept["metric"] == "deletion_gain_gradients", ["value", "low", "high"]] = [(low + high) / 2, low, high]
    return kept


def test_a_column_a_model_with_its_chance_line(own: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("attribution_curves", Report(own, facts))
    shown = [axes for axes in drawn.axes if axes.axison]
    assert len(shown) == 6
    for axes, kind in ((shown[0], "deletion"), (shown[3], "insertion")):
        assert len(axes.lines) == 3
        chance = own[(own["model"] == TEACHER) & (own["metric"] == f"{kind}_curve_random")]
        np.testing.assert_allclose(axes.lines[2].get_ydata(), chance["value"])
        assert axes.lines[2].get_color() == "#111111"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, ": better than chance."),
        (-0.1, 0.2, "not clearly different from chance."),
        (-0.3, -0.1, ": worse than chance."),
    ],
)
def test_the_caption_of_one_model_says_what_its_interval_allows(
    own: pd.DataFrame, facts: Facts, low: float, high: float, words: str
) -> None:
    assert figure_of("attribution_curves", Report(alone(own, low, high), facts)).caption()[2].endswith(words)


def test_captions_compare_the_pair(own: pd.DataFrame, facts: Facts) -> None:
    third = figure_of("attribution_curves", Report(own, facts)).caption()[2]
    assert f"0.30 (0.28 to 0.32) in {TEACHER} and 0.20 (0.18 to 0.22) in {STUDENT}" in third
    assert f"{STUDENT} minus {TEACHER} is -0.10" in third and "no clear" not in third
    third = figure_of("head_effects", Report(own, facts)).caption()[2]
    assert third.startswith("In blocks 3 to 4, the mean drop of the score without one head is 3.5 % (")
    for figure in ("attribution_curves", "head_effects"):
        assert "cosine" in figure_of(figure, Report(own, facts)).caption()[0]


def test_without_rankings_chance_alone_is_shown(own: pd.DataFrame, facts: Facts) -> None:
    bare = own[own["metric"].str.endswith("random")]
    draw_figure("attribution_curves", Report(bare, facts))
    assert "no ranking was measured" in figure_of("attribution_curves", Report(bare, facts)).caption()[2]
    assert available(Report(bare)) == ["attribution_curves"]


def test_heads_stand_side_by_side_over_their_control(own: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("head_effects", Report(own, facts))
    titles = [axes.get_title("left").replace("\n", " ") for axes in drawn.axes if axes.axison]
    assert titles == [TEACHER, STUDENT]
    grey = drawn.axes[0].lines[1]
    assert grey.get_color() == "#c2c2c2"
    expected = 100 * own[(own["model"] == RANDOM_A) & (own["metric"] == "head_effect_share")]["value"]
    np.testing.assert_allclose(grey.get_ydata(), expected)
    assert sorted(set(np.round(grey.get_xdata(), 3)))[:4] == [0.75, 0.917, 1.083, 1.25]
    first = figure_of("head_effects", Report(own, facts)).numbers().iloc[0]
    assert (first["block"], first["most needed head"], first["its drop (%)"]) == ("1", "4", "2.5 (2.1 to 3.0)")


@pytest.mark.parametrize("figure", ["attribution_curves", "head_effects"])
def test_undefined_shares_are_said(own: pd.DataFrame, facts: Facts, figure: str) -> None:
    own = own.copy()
    own.loc[own["model"] == TEACHER, ["value", "low", "high"]] = np.nan
    drawn = draw_figure(figure, Report(own, facts))
    assert "undefined" in [text.get_text() for axes in drawn.axes for text in axes.texts]
    said = figure_of(figure, Report(own, facts)).caption()
    assert "undefined" in said[2]
    assert f"undefined for {TEACHER}, whose" in said[1]


def test_a_control_without_shares_is_in_no_legend(own: pd.DataFrame, facts: Facts) -> None:
    texts = [text.get_text() for text in draw_figure("head_effects", Report(own, facts)).legends[0].get_texts()]
    assert "untrained, same design" in texts
    own = own.copy()
    own.loc[own["model"] == RANDOM_A, ["value", "low", "high"]] = np.nan
    texts = [text.get_text() for text in draw_figure("head_effects", Report(own, facts)).legends[0].get_texts()]
    assert "untrained, same design" not in texts
    assert "grey" not in figure_of("head_effects", Report(own, facts)).caption()[1]
    draw_figure("head_effects", Report(own, facts))


@pytest.mark.parametrize("figure", ["attribution_curves", "head_effects"])
def test_numbers_say_undefined(own: pd.DataFrame, facts: Facts, figure: str) -> None:
    own = own.copy()
    own.loc[own["model"] == TEACHER, ["value", "low", "high"]] = np.nan
    assert "undefined" in figure_of(figure, Report(own, facts)).numbers().to_string()
