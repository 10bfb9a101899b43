"""Other weights, the same function: which measures move, and how far."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fdlab.records.metrics.names import MAPS
from fdlab.report.captions import Caption, options, seeds
from fdlab.report.style import INK, WIDE, new_figure, wrap
from fdlab.report.summary import Facts, models, rows

TITLE = "What moves when the weights change and the function does not"
SHOWN = {
    "eigenvalue_1": "largest eigenvalue",
    "eigenvalue_1_balanced": "largest, balanced",
    "sharpness_average": "plain, average",
    "sharpness_worst": "plain, worst",
    "sharpness_adaptive": "adaptive, average",
    "sharpness_adaptive_worst": "adaptive, worst",
    "noise_to_rise": "noise to a rise",
}
METRICS = tuple(f"moved_{name}" for name in SHOWN)
MARKS = (("o", INK), ("s", "none"), ("^", INK), ("D", "none"), ("X", INK))  # marker and its filling
ACROSS, MOST = 2, 4


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "sharpness", "moved_eigenvalue_1").empty


def _names(table: pd.DataFrame, facts: Facts) -> list[str]:
    return models(rows(table, "sharpness", "moved_eigenvalue_1"), facts, "sharpness")


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A panel a model (four at most), a row a measure, a mark a map; 1 means that nothing moved."""
    names = _names(table, facts)[:MOST]
    down = math.ceil(len(names) / ACROSS)
    figure = new_figure(WIDE, 0.85 + 1.75 * down)
    grid = figure.subplots(down, min(len(names), ACROSS), squeeze=False, sharex=True, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_axis_off()
            continue
        _panel(axes, table, names[place])
        axes.set_title(wrap(names[place], 30, 1), loc="left")
        if place + ACROSS >= len(names):
            axes.set_xlabel("ratio to the untouched model")
            axes.tick_params(labelbottom=True)
    first = grid[0, 0]
    first.set_yticks(range(len(SHOWN)), list(SHOWN.values()), fontsize=7)
    first.set_ylim(len(SHOWN) - 0.4, -0.6)
    handles = [
        Line2D([], [], ls="", marker=mark, color=INK, mfc=fill, mew=0.7, ms=4.2, label=text)
        for (mark, fill), text in zip(MARKS, MAPS.values(), strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, name: str) -> None:
    for line, measure in enumerate(SHOWN):
        own = rows(table, "sharpness", f"moved_{measure}")
        own = own[(own["model"] == name) & (own["value"] > 0)]
        for row in own.itertuples():
            number = int(row.x) - 1
            mark, fill = MARKS[number]
            place = line + 0.13 * (number - 2)
            axes.plot([row.value], [place], ls="", marker=mark, color=INK, mfc=fill, ms=3.6, mew=0.7)
    axes.axvline(1, color=INK, lw=0.7, ls=(0, (4, 2.5)), zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y")


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = _names(table, facts)
    moved = {measure: _farthest(table, measure, names[0]) for measure in SHOWN}
    top = max(moved, key=lambda measure: abs(math.log(moved[measure][0])))
    ratio, number = moved[top]
    change = rows(table, "sharpness", "moved_function")["value"].max()
    still = [SHOWN[measure] for measure, (value, _) in moved.items() if abs(math.log(value)) < 0.01]
    rest = f"within 1 % under every map: {', '.join(still)}" if still else "no measure stays within 1 % under every map"
    plural = "s" if len(names) > 1 else ""
    return (
        f"Measures of flatness of {len(names)} model{plural} after maps of the weights that keep the function "
        f"(tokens change by at most {change:.0e} of the largest){seeds(facts)}{options(names, facts)}.",
        "A mark on the dashed line means that the measure did not see the map; each mark is one map, the axis is "
        "logarithmic.",
        f"In {names[0]}, the {SHOWN[top]} moves the farthest, to {ratio:.2g} times its value "
        f"({list(MAPS.values())[number - 1]}); {rest}.",
        "A difference between two models that is smaller than these moves says nothing about their functions; a "
        "measure that stays is not shown to predict anything by that.",
    )


def _farthest(table: pd.DataFrame, measure: str, name: str) -> tuple[float, int]:
    own = rows(table, "sharpness", f"moved_{measure}")
    own = own[(own["model"] == name) & (own["value"] > 0)]
    found = max(own.itertuples(), key=lambda row: abs(math.log(row.value)))
    return float(found.value), int(found.x)


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in _names(table, facts):
        for number, text in enumerate(MAPS.values(), start=1):
            line = {"model": name, "map": text}
            for measure in ("function", *SHOWN):
                own = rows(table, "sharpness", f"moved_{measure}")
                value = own[(own["model"] == name) & (own["x"] == number)]["value"]
                line[SHOWN.get(measure, "change of the outputs")] = (
                    f"{float(value.iloc[0]):.3g}" if len(value) and value.notna().all() else "–"
                )
            lines.append(line)
    return pd.DataFrame(lines)
