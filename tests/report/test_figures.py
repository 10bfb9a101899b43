"""Every figure draws, in its exact size, twice the same, with whatever models a table has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from mock_study import RANDOM_A, STUDENT, TEACHER, TYPICAL, attention_rows

from fdlab.errors import FdlabError
from fdlab.records.table import frame, join
from fdlab.report.figures import FIGURES, available, draw_figure, figure_of, write_figures
from fdlab.report.report import Report
from fdlab.report.style import COLORS, DARK, INK, save_figure

Facts = dict[str, Any]


def of(table: pd.DataFrame, *names: str) -> pd.DataFrame:
    return table[table["model"].isin(names)]


@pytest.mark.parametrize("figure", FIGURES)
def test_size_is_exact_and_a_second_run_gives_the_same_bytes(
    figure: str, table: pd.DataFrame, facts: Facts, tmp_path: Path
) -> None:
    drawn = draw_figure(figure, Report(table, facts))
    width, height = drawn.get_size_inches()
    assert width in (3.25, 5.5)
    first = save_figure(drawn, tmp_path / "a", figure)
    again = save_figure(draw_figure(figure, Report(table, facts)), tmp_path / "b", figure)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.suffix
    pdf, svg, _ = first
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf.read_bytes())
    assert box
    assert float(box[1]) == pytest.approx(72 * width)
    assert float(box[2]) == pytest.approx(72 * height)
    assert b"/Type3" not in pdf.read_bytes()
    size = re.search(r'width="([\d.]+)pt"', svg.read_text())
    assert size
    assert float(size[1]) == pytest.approx(72 * width)


def test_a_format_alone_has_the_bytes_that_it_has_beside_others(
    table: pd.DataFrame, facts: Facts, tmp_path: Path
) -> None:
    """One layout for all formats, found in the same way whatever is asked for; the figure keeps its engine."""
    drawn = draw_figure("attention_distance", Report(table, facts))
    engine = drawn.get_layout_engine()
    _, svg, png = save_figure(drawn, tmp_path / "a", "f")
    assert drawn.get_layout_engine() is engine
    assert drawn.dpi == draw_figure("finetune", Report(table, facts)).dpi
    for path in (svg, png):
        (alone,) = save_figure(
            draw_figure("attention_distance", Report(table, facts)),
            tmp_path / "b",
            "f",
            [path.suffix.removeprefix(".")],
        )
        assert alone.read_bytes() == path.read_bytes()


def test_a_users_matplotlibrc_does_not_change_a_figure(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    import matplotlib as mpl

    plain = save_figure(draw_figure("finetune", Report(table, facts)), tmp_path / "a", "f")
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.bbox": "tight", "axes.grid": True}):
        own = save_figure(draw_figure("finetune", Report(table, facts)), tmp_path / "b", "f")
    assert plain[1].read_bytes() == own[1].read_bytes()


@pytest.mark.parametrize("figure", FIGURES)
def test_no_text_leaves_the_figure_and_none_is_small(figure: str, table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure(figure, Report(table, facts))
    drawn.canvas.draw()
    page = drawn.bbox
    # Ticks beyond an axis's limits exist without being drawn; the layout keeps the others inside.
    ticks = [
        label
        for axes in drawn.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
    ]
    texts = [text for text in drawn.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert len(texts) > 5
    for text in texts:
        assert text.get_fontsize() >= 6, text.get_text()
        if not any(text is tick for tick in ticks):
            box = text.get_window_extent()
            assert min(box.x0, box.y0) >= -1, text.get_text()
            assert box.x1 <= page.x1 + 1, text.get_text()
            assert box.y1 <= page.y1 + 1, text.get_text()


@pytest.mark.parametrize(
    "figure",
    [
        "attention_distance", "head_similarity", "position", "finetune", "teacher", "attribution_curves",
        "head_effects",
    ],
)  # fmt: skip
def test_labels_do_not_overlap(figure: str, table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure(figure, Report(table, facts))
    drawn.canvas.draw()
    boxes = []
    for axes in drawn.axes:
        if axes.axison:
            own = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            boxes += [(t.get_text(), t.get_window_extent()) for t in own if t.get_text()]
    for legend in drawn.legends:
        boxes += [(t.get_text(), t.get_window_extent()) for t in legend.get_texts()]
    for place, (text, box) in enumerate(boxes):
        for other, there in boxes[place + 1 :]:
            assert not box.overlaps(there), (text, other)


@pytest.mark.parametrize("models", [1, 2, 5, 9])
def test_any_number_of_models_blocks_and_grids(models: int) -> None:
    kinds = ["mim", "contrastive", "distilled", "supervised", "random", "some other family"]
    made = []
    for number in range(models):
        grid = {"blocks": 12, "heads": 12, "uniform": (116.5, 17.0)[number % 2]}
        typical = list(TYPICAL.values())[number % 7][1]
        made += attention_rows(f"a rather long checkpoint name {number}", kinds[number % 6 - 1], typical, **grid)
    table = frame(made)
    assert available(Report(table)) == ["attention_distance", "head_similarity", "position"]
    for figure in available(Report(table)):
        draw_figure(figure, Report(table, {})).canvas.draw()
    drawn = draw_figure("attention_distance", Report(table, {}))
    family = Report(table).families
    shown = [axes for axes in drawn.axes if axes.axison]
    untrained = sum(kind == "random" for kind in family.values())
    # Without a stated control the untrained models get panels of their own.
    assert len(shown) == models
    assert untrained <= 1


def test_panels_hold_the_uniform_line_and_the_grey_control(table: pd.DataFrame, facts: Facts) -> None:
    drawn = draw_figure("attention_distance", Report(of(table, TEACHER, RANDOM_A), facts))
    (axes,) = [axes for axes in drawn.axes if axes.axison]
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert 12.3 in levels
    grey = axes.lines[0]
    expected = table[(table["model"] == RANDOM_A) & (table["metric"] == "distance")]["value"]
    assert grey.get_color() == "#c2c2c2"
    np.testing.assert_allclose(sorted(grey.get_ydata()), sorted(expected))


def test_likeness_stands_between_uniform_attention_and_shuffled_keys(table: pd.DataFrame, facts: Facts) -> None:
    own = of(table, TEACHER, RANDOM_A)
    alike = own[own["metric"] == "head_similarity"]
    shuffled = alike.assign(metric="head_similarity_shuffled", value=alike["value"] / 2)
    for rows, lines in ((own, 0), (join([own, shuffled]), 1)):
        drawn = draw_figure("head_similarity", Report(rows, facts))
        panels = [axes for axes in drawn.axes if axes.axison]
        flat = [[line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1] for axes in panels]
        assert [value in found for value, found in zip((1, 1, 0), flat, strict=True)] == [True] * 3
        expected = (alike.loc[alike["model"] == TEACHER, "value"] / 2).to_numpy()
        near = [line for line in panels[0].lines if np.array_equal(line.get_ydata(), expected)]
        assert len(near) == lines


def test_uniform_line_follows_from_distance_and_ratio(table: pd.DataFrame, facts: Facts) -> None:
    del facts["uniform_px"]
    drawn = draw_figure("attention_distance", Report(of(table, TEACHER), facts))
    flat = [
        line.get_ydata()[0]
        for axes in drawn.axes
        for line in axes.lines
        if len(line.get_ydata()) == 2 and len(set(line.get_ydata())) == 1
    ]
    assert flat == pytest.approx([12.3])


def test_nan_values_are_drawn_around(table: pd.DataFrame, facts: Facts) -> None:
    table.loc[table["metric"].isin(["r2_relative", "r2_absolute"]) & (table["model"] == RANDOM_A), "value"] = np.nan
    table.loc[table["model"] == STUDENT, ["value", "low", "high"]] = np.nan
    table.loc[table["model"] == TEACHER, ["low", "high"]] = np.nan
    for figure in available(Report(table)):
        draw_figure(figure, Report(table, facts)).canvas.draw()
        assert not figure_of(figure, Report(table, facts)).numbers().empty


def test_several_seeds_show_a_point_each(table: pd.DataFrame, facts: Facts) -> None:
    other = table.assign(seed=1)
    other["value"] = other["value"] * 0.99
    both = join([table, other.astype(table.dtypes)])
    for figure in available(Report(both)):
        draw_figure(figure, Report(both, facts | {"seed": [0, 1]}))
    accuracy = draw_figure("finetune", Report(both, facts)).axes[0]
    points = [line for line in accuracy.lines if line.get_marker() not in ("None", "", None)]
    assert len(points) == 2 * len(TYPICAL)


def test_dollar_signs_in_labels_are_text(table: pd.DataFrame, facts: Facts, tmp_path: Path) -> None:
    name = r"$\frac{1$ <b>&"
    nasty = table.assign(model=table["model"].replace(STUDENT, name)).astype(table.dtypes)
    paths = write_figures(tmp_path, Report(nasty, {**facts, "order": []}), ["finetune"])
    assert "&lt;b&gt;&amp;" in paths["finetune"][1].read_text()


def test_unknown_and_absent_figures_are_named(table: pd.DataFrame, facts: Facts) -> None:
    with pytest.raises(FdlabError, match="Did you mean 'ruler'"):
        draw_figure("rulr", Report(table, facts))
    with pytest.raises(FdlabError, match="has no rows") as error:
        draw_figure("ruler", Report(table[table["probe"] == "attention"], facts))
    assert error.value.code == 2
    assert "attention_distance" in error.value.fix


def test_colours_keep_their_contrast() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for color in (INK, *COLORS):
        assert contrast(color, "#ffffff") >= 3, color  # what graphics need
        assert contrast(DARK[color], DARK["#ffffff"]) >= 3, color


def test_the_room_needs_no_torch() -> None:
    code = "import sys, fdlab.report.page, fdlab.report.figures.curves; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
