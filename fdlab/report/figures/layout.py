"""Arrangements that several figures share: panels in bands, a row a model, lines over depth, bars of shades."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fdlab.report.style import INK, PAPER, SHADES_OF_BLUE, Look, bars, wrap

SHADES = ListedColormap(list(reversed(SHADES_OF_BLUE))).with_extremes(bad=PAPER)  # from light to dark
REFERENCE_LINE: dict[str, Any] = {"color": INK, "lw": 0.7, "ls": (0, (4, 2.5))}  # uniform attention, no effect, ...

Item = TypeVar("Item")


def bands(count: int, most: int) -> tuple[int, int]:
    """Rows and columns of ``count`` panels, at most ``most`` side by side and the rows about equally full.

    >>> bands(5, 4), bands(3, 4)
    ((2, 3), (1, 3))
    """
    down = math.ceil(count / most)
    return down, math.ceil(count / down)


def filled(grid: Any, items: Sequence[Item]) -> Iterator[tuple[int, Axes, Item]]:
    """The number, the axes and the item of every panel; axes without an item are switched off."""
    for number, axes in enumerate(grid.flat):
        if number < len(items):
            yield number, axes, items[number]
        else:
            axes.set_axis_off()


def label_outer(axes: Axes, number: int, grid: Any, count: int, below: str, left: str = "") -> None:
    """Labels panel ``number`` of ``count``: at the left of its row, and below where no panel follows."""
    across = grid.shape[1]
    if left and number % across == 0:
        axes.set_ylabel(left)
    if number + across >= count:
        axes.set_xlabel(below)
        axes.tick_params(labelbottom=True)


def stacked(
    grid: Any, names: Sequence[str], labels: Mapping[str, str], title: tuple[int, int], below: str
) -> Iterator[tuple[Axes, str, str]]:
    """The axes, the model and the metric of every panel: a column a model, a row a metric (metric -> label).

    Titled (``title``: width, lines) and labelled after they are drawn; axes without a model are switched off.
    """
    across, metrics = grid.shape[1], list(labels)
    for number, line in np.ndindex(grid.size // len(metrics), len(metrics)):
        axes: Axes = grid[number // across * len(metrics) + line, number % across]
        if number >= len(names):
            axes.set_axis_off()
            continue
        yield axes, names[number], metrics[line]
        if number % across == 0:
            axes.set_ylabel(labels[metrics[line]])
        else:
            axes.tick_params(labelleft=False)
        last = line == len(metrics) - 1 and number + across >= len(names)
        axes.tick_params(labelbottom=last)
        if line == 0:
            axes.set_title(wrap(names[number], *title), loc="left")
        if last:
            axes.set_xlabel(below)


def row_a_model(panels: Iterable[Axes], names: Sequence[str], width: int = 26) -> None:
    """Panels side by side with a row a model: names at the left of the first, faint lines for the values."""
    panels = list(panels)
    for axes in panels:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(names)), [wrap(name, width, 2) for name in names], fontsize=7)
    panels[0].set_ylim(len(names) - 0.4, -0.6)


def line_over_depth(axes: Axes, data: pd.DataFrame, look: Look, *, behind: bool = False) -> None:
    """One model over relative depth, with its intervals."""
    axes.errorbar(
        data["depth"], data["value"], yerr=bars(data), ls=look.line, lw=1.0, elinewidth=0.7,
        zorder=2 if behind else 3, **look.points(3.2 if len(data) <= 6 else 2.2),
    )  # fmt: skip


def legend_of_models(names: Sequence[str], looks: Mapping[str, Look]) -> tuple[list[Line2D], list[str]]:
    """Handles and labels of a legend that names the models."""
    handles = [Line2D([], [], ls=looks[name].line, **looks[name].points(3.5)) for name in names]
    return handles, [wrap(name, 24, 2) for name in names]


def log_ticks(axis: Axis, subs: tuple[int, ...], most: int) -> None:
    """A logarithmic axis with plain numbers at its ticks."""
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shade_bar(
    figure: Drawing, drawn: Any, grid: Any, label: str, ticks: Any, words: Sequence[str], shrink: float = 0.8
) -> None:
    """The bar that says what a shade means."""
    bar = figure.colorbar(drawn, ax=grid, label=label, shrink=shrink, aspect=30, ticks=ticks)
    bar.ax.set_yticklabels(words)
    bar.ax.minorticks_off()


def matrix_of(rows: pd.DataFrame, index: str, columns: str) -> np.ndarray:
    """Long rows as a matrix (index, columns); several seeds as their mean, NaN where there is no row."""
    return rows.pivot_table(index=index, columns=columns, values="value", dropna=False).to_numpy(float)
