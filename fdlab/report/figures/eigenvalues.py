"""The largest eigenvalue and the trace, raw and balanced: what of a difference survives a change of scales."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.figures.hessian_spectrum import whole
from fdlab.report.style import COLUMN, INK, WIDE, Look, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, families, models, rows, show

TITLE = "Largest eigenvalue and trace, raw and balanced"
METRICS = ("eigenvalue_1", "eigenvalue_lowest", "trace")
SHOWN = {"eigenvalue_1": "largest eigenvalue", "trace": "trace"}


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    top = rows(table, "hessian", "eigenvalue_1")
    return not top[top["block"].isna()].empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A row a model; filled markers are raw, crosses balanced; a logarithmic axis where all are positive."""
    names = _names(table, facts)
    look = looks_of(table, facts)
    metrics = [metric for metric in SHOWN if any(whole(table, metric, name).known for name in names)]
    balanced = any(whole(table, f"{metric}_balanced", name).known for metric in metrics for name in names)
    figure = new_figure(WIDE if len(metrics) > 1 else COLUMN, 0.75 + 0.32 * len(names))
    grid = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(grid, metrics, strict=True):
        for place, name in enumerate(names):
            _point(axes, whole(table, metric, name), place - 0.12 * balanced, look[name], plain=True)
            _point(axes, whole(table, f"{metric}_balanced", name), place + 0.16, look[name], plain=False)
        values = [whole(table, metric, name).value for name in names]
        if np.nanmin(values) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(SHOWN[metric])
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    grid[0].set_yticks(range(len(names)), [wrap(name, 24, 2) for name in names], fontsize=7)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    if balanced:
        marks = [("o", "as it is"), ("x", "balanced form")]
        handles = [Line2D([], [], ls="", marker=mark, color=INK, markersize=4, label=text) for mark, text in marks]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _point(axes: Axes, value: Estimate, y: float, look: Look, plain: bool) -> None:
    if not value.known:
        return
    style = look.points(4.5) if plain else {"marker": "x", "color": look.color, "markersize": 4.5}
    axes.plot([value.value], [y], ls="", **style)
    if value.bounded:
        low = max(value.low, value.value / 100) if value.value > 0 else value.low  # a bar that leaves a log axis
        axes.plot([low, value.high], [y, y], color=look.color, lw=0.9)


def _names(table: pd.DataFrame, facts: Facts) -> list[str]:
    top = rows(table, "hessian", "eigenvalue_1")
    return models(top[top["block"].isna()], facts, "hessian")


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = _names(table, facts)
    top = rows(table, "hessian", "eigenvalue_1")
    balanced = any(whole(table, "eigenvalue_1_balanced", name).known for name in names)
    crosses = "; crosses are the same function after its scales were balanced" if balanced else ""
    return (
        f"Largest eigenvalue and trace of the Hessian of this loss: {top['objective'].iloc[0]}{seeds(facts)}"
        f"{options(names, facts)}.",
        "Further left is flatter; bars are 95 % intervals, over images for the eigenvalue and over random probes for "
        f"the trace{crosses}.",
        _comparison(table, facts, names),
        caution(
            "Neither number says how well a model generalises or fine-tunes, and an invertible map inside a head "
            "leaves the function alone and still moves the balanced form",
            names,
            top,
            facts,
        ),
    )


def _comparison(table: pd.DataFrame, facts: Facts, names: list[str]) -> str:
    chosen = pair(names, families(table), facts)
    if chosen is None:
        value = show(whole(table, "eigenvalue_1", names[0]), "eigenvalue_1")
        return f"The largest eigenvalue of {names[0]} is {value}; there is no second model to compare it with."
    pairs = {
        metric: (whole(table, metric, chosen[0]), whole(table, metric, chosen[1]))
        for metric in ("eigenvalue_1", "eigenvalue_1_balanced")
    }
    sentence = compared("largest eigenvalue", "eigenvalue_1", pairs["eigenvalue_1"], chosen)
    even = pairs["eigenvalue_1_balanced"]
    if all(value.known for value in even):
        shown = [show(value, "eigenvalue_1") for value in even]
        sentence = f"{sentence[:-1]}; balanced, it is {shown[0]} and {shown[1]}."
    return sentence


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in _names(table, facts):
        line = {"model": name}
        for metric in (*SHOWN, "eigenvalue_lowest"):
            line[metric] = show(whole(table, metric, name), metric)
            line[f"{metric}, balanced"] = show(whole(table, f"{metric}_balanced", name), metric)
        lines.append(line)
    return pd.DataFrame(lines)
