"""The loss along random lines through the weights: a panel a model, all on one scale."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.style import COLUMN, FAINT, WIDE, Look, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, along, families, models, rows, show

TITLE = "Loss along random lines through the weights"
METRICS = ("loss_line", "accuracy_line")
ACROSS = 4


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "landscape", "loss_line").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Loss above, accuracy below where it is known; the other models stand behind in light grey."""
    names, look = models(rows(table, "landscape", "loss_line"), facts, "landscape"), looks_of(table, facts)
    metrics = [metric for metric in METRICS if not rows(table, "landscape", metric).empty]
    bands = math.ceil(len(names) / ACROSS)
    across = math.ceil(len(names) / bands)
    figure = new_figure(COLUMN if across < 3 else WIDE, 0.4 + bands * (0.2 + 1.15 * len(metrics)))
    grid = figure.subplots(bands * len(metrics), across, squeeze=False, sharex=True, sharey="none")
    for place in range(bands * across):
        band, column = divmod(place, across)
        for line, metric in enumerate(metrics):
            axes = grid[band * len(metrics) + line, column]
            if place >= len(names):
                axes.set_axis_off()
                continue
            _panel(axes, rows(table, "landscape", metric), names, names[place], look[names[place]])
            _scale(axes, rows(table, "landscape", metric), metric)
            if column == 0:
                axes.set_ylabel("loss (nats)" if metric == "loss_line" else "accuracy")
            else:
                axes.tick_params(labelleft=False)
            if line == 0:
                axes.set_title(wrap(names[place], 19, 2), loc="left")
            last = line == len(metrics) - 1 and place + across >= len(names)
            axes.tick_params(labelbottom=last)
            if last:
                axes.set_xlabel("distance (filter lengths)" if across < 3 else "distance")
    figure.align_ylabels()
    return figure


def _panel(axes: Axes, curve: pd.DataFrame, names: list[str], name: str, look: Look) -> None:
    for other in names:
        if other != name:
            own = along(curve, other)
            axes.plot(own["x"], own["value"], color=FAINT, lw=0.7, zorder=1)
    own = along(curve, name)
    axes.plot(own["x"], own["value"], color=look.color, ls="-", lw=1.2)
    axes.fill_between(own["x"], own["low"], own["high"], color=look.color, alpha=0.2, lw=0)


def _scale(axes: Axes, curve: pd.DataFrame, metric: str) -> None:
    """One scale for all panels; logarithmic where the loss spans more than a decade."""
    if metric != "loss_line":
        axes.set_ylim(0, 1.02)
        return
    low, high = float(curve[["low", "value"]].min(axis=None)), float(curve[["high", "value"]].max(axis=None))
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
    else:
        axes.set_ylim(min(0.0, low), 1.05 * high)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    curve = rows(table, "landscape", "loss_line")
    names = models(curve, facts, "landscape")
    chosen = pair(names, families(table), facts)
    away = float(curve["x"].abs().max())
    place = float(curve[curve["x"] >= away / 2]["x"].min())
    quantity = f"median rise at a distance of {place:g}"
    if chosen is None:
        value = show(_rise(curve, names[0], place), "loss")
        third = f"The {quantity} is {value} nats in {names[0]}; there is no second model to compare it with."
    else:
        values = (_rise(curve, chosen[0], place), _rise(curve, chosen[1], place))
        third = compared(quantity, "loss", values, chosen).replace("intervals", "bands")
    return (
        f"Loss of {len(names)} model{'s' if len(names) > 1 else ''} on {int(curve['n'].max())} images along random "
        f"directions through the weights, every filter as long as the model's own: {curve['objective'].iloc[0]}"
        f"{seeds(facts)}{options(names, facts)}.",
        "The line is the median over directions, the band holds the middle 80 % of them, grey lines are the other "
        "models; a lower valley is flatter.",
        third,
        caution(
            "These are few of very many directions, a rescaling of the weights that keeps the function can change "
            "them, and losses of different objectives are not comparable",
            names,
            curve,
            facts,
        ),
    )


def _rise(curve: pd.DataFrame, name: str, place: float) -> Estimate:
    own = along(curve, name)
    base, there = own[own["x"] == 0]["value"], own[own["x"] == place]
    if base.empty or there.empty:
        return Estimate(math.nan, math.nan, math.nan)
    row = there.iloc[0]
    return Estimate(*(float(row[part] - base.iloc[0]) for part in ("value", "low", "high")))


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    curve = rows(table, "landscape", "loss_line")
    lines = []
    for name in models(curve, facts, "landscape"):
        for row in along(curve, name).to_dict("records"):
            band = f" ({row['low']:.3g} to {row['high']:.3g})" if row["low"] == row["low"] else ""
            value = f"{row['value']:.3g}{band}" if row["value"] == row["value"] else "not finite"
            lines.append({"model": name, "distance": f"{row['x']:g}", "median loss (10 to 90 %)": value})
    return pd.DataFrame(lines)
