"""The figures of averaged maps and biases: what is chosen, how it is shaded, captions that follow the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from mock_study import MIM, RANDOM_A, STUDENT, TEACHER

from fdlab.report.figures import draw_figure, figure_of
from fdlab.report.report import Report
from fdlab.report.style import SHADES_OF_BLUE

Facts = dict[str, Any]


def panel(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def test_the_compared_pair_and_a_control_are_drawn(table: pd.DataFrame, facts: Facts) -> None:
    assert figure_of("averaged_maps", Report(table, facts)).names == [TEACHER, STUDENT, RANDOM_A]
    assert f"not drawn: {MIM}" in figure_of("averaged_maps", Report(table, facts)).caption()[0]
    drawn = draw_figure("averaged_maps", Report(table, facts))
    maps = [axes for axes in drawn.axes if axes.images]
    assert len(maps) == 3 * 3 * 2
    titles = [axes.get_title("left").replace("\n", " ") for axes in maps if axes.get_title("left")]
    assert titles == [TEACHER, STUDENT, RANDOM_A] or len(titles) == 3
    assert maps[2].get_xlabel() == "block 1\nhead 3"  # the nearer head first, counted from 1


def test_a_panel_is_the_tables_map_queries_down(table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("averaged_maps", Report(table, facts))
    first = next(axes for axes in drawn.axes if axes.images)
    own = table[(table["model"] == TEACHER) & (table["metric"] == "attention_map")]
    own = own[(own["block"] == 0) & (own["head"] == 2)]
    for _, cell in own.iterrows():
        assert panel(first)[int(cell["y"]), int(cell["x"])] == pytest.approx(cell["value"])


def test_nearly_uniform_is_one_shade_and_more_is_darker(table: pd.DataFrame, facts: Facts) -> None:
    changed = table.copy()
    cells = changed["metric"] == "attention_map"
    changed.loc[cells & (changed["model"] == TEACHER), "value"] = np.where(
        np.arange((cells & (changed["model"] == TEACHER)).sum()) % 2, 0.9, 1.1
    )
    drawn = draw_figure("averaged_maps", Report(changed, facts))
    image = next(axes for axes in drawn.axes if axes.images).images[0]
    shades = image.cmap(image.norm(panel(image.axes)))
    assert len(np.unique(shades.reshape(-1, 4), axis=0)) == 1
    levels = image.norm(np.array([0.1, 0.3, 0.6, 1.0, 1.5, 3.0, 6.0, 20.0]))
    assert list(levels) == list(range(8))
    assert np.allclose(
        image.cmap(int(levels[-1]))[:3], [int(SHADES_OF_BLUE[0][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )


def test_captions_follow_the_numbers(table: pd.DataFrame, facts: Facts) -> None:
    third = figure_of("averaged_maps", Report(table, facts)).caption()[2]
    assert "0.00 (-0.03 to 0.02) in SimCLR teacher and 0.40 (0.37 to 0.42) in FD student: FD student minus" in third
    wide = table.copy()
    wide.loc[wide["metric"] == "r2_relative_of_mean", "high"] = 0.9
    assert "no clear difference" in figure_of("averaged_maps", Report(wide, facts)).caption()[2]
    # 9 offsets squared apart, times 0.2 in the student: 1.3 less -0.2 * 18
    assert "3.6 in FD student" in figure_of("bias_maps", Report(table, facts)).caption()[2]
    assert f"{TEACHER} has no such bias" in figure_of("bias_maps", Report(table, facts)).caption()[0]


def test_the_bias_scale_holds_all_values_alike_on_both_sides(table: pd.DataFrame) -> None:
    found = table[table["metric"] == "relative_bias"]
    steps = figure_of("bias_maps", Report(found)).edges
    assert steps[-1] >= found["value"].abs().max() > 0.6 * steps[-1]
    np.testing.assert_allclose(steps, -steps[::-1])


def test_one_model_without_control(table: pd.DataFrame) -> None:
    alone = table[table["model"] == TEACHER]
    assert "there is no second model" in figure_of("averaged_maps", Report(alone, {})).caption()[2]
    draw_figure("averaged_maps", Report(alone, {})).canvas.draw()
    assert not figure_of("bias_maps", Report(alone)).present
    assert set(figure_of("averaged_maps", Report(alone, {})).numbers()["block"]) == {"1", "3", "4"}
