"""The score while cells of an image are removed or added: does a ranking of the cells beat chance?"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdlab.records.metrics.names import ORDERS
from fdlab.report.captions import Caption, caution, compared, listed, on_images, options, pair, seeds
from fdlab.report.style import COLUMN, INK, PAPER, WIDE, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, along, families, models, of_model, rows, show

TITLE = "Score while parts of the image are removed or added"
METRICS = ("deletion_curve_gradients", "insertion_curve_gradients", "deletion_gain_gradients")
PROBE = "attribution"
KINDS = {"deletion": "score left", "insertion": "score there"}
ACROSS = 4
CHANCE = (0, (4, 2.5))


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, PROBE, "deletion_curve_random").empty


def _names(table: pd.DataFrame, facts: Facts) -> list[str]:
    return models(rows(table, PROBE, "deletion_curve_random"), facts, PROBE)


def _orders(table: pd.DataFrame) -> list[str]:
    return [name for name in ORDERS if not rows(table, PROBE, f"deletion_curve_{name}").empty]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A column a model: deletion above insertion, a line an order, the random one dashed in ink."""
    names, orders = _names(table, facts), _orders(table)
    down = math.ceil(len(names) / ACROSS)
    across = math.ceil(len(names) / down)
    figure = new_figure(COLUMN if across == 1 else WIDE, 0.35 + 2.4 * down + (0.35 if across == 1 else 0))
    grid = figure.subplots(2 * down, across, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat:
        axes.set_axis_off()
    seen: list[float] = [0.0, 1.0]
    for place, name in enumerate(names):
        for line, kind in enumerate(KINDS):
            row, column = 2 * (place // across) + line, place % across
            axes = grid[row, column]
            axes.set_axis_on()
            seen += _panel(axes, table, facts, name, kind, orders)
            if line == 0:
                axes.set_title(wrap(name, 20, 2), loc="left")
            else:
                axes.set_xlabel("share of cells")
            axes.tick_params(labelbottom=line == 1, labelleft=column == 0)
            if column == 0:
                axes.set_ylabel(KINDS[kind])
    axes = grid[0, 0]
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    room = 0.04 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - room, max(seen) + room)
    handles = [_handle(order, INK) for order in orders]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, facts: Facts, name: str, kind: str, orders: list[str]) -> list[float]:
    """The drawn values, for the common scale."""
    color = looks_of(table, facts)[name].color
    drawn: list[float] = []
    for order in orders:
        own = along(rows(table, PROBE, f"{kind}_curve_{order}"), name).dropna(subset=["value"])
        if own.empty:
            continue
        style = _handle(order, INK if order == "random" else color)
        known = own.dropna(subset=["low", "high"])
        axes.fill_between(known["x"], known["low"], known["high"], color=style.get_color(), alpha=0.14, lw=0)
        axes.plot(
            own["x"], own["value"], ls=style.get_linestyle(), color=style.get_color(), lw=style.get_linewidth(),
            marker=style.get_marker(), ms=2.4, mfc=style.get_markerfacecolor(), mew=0.7,
        )  # fmt: skip
        drawn += own["value"].tolist()
    if not drawn:
        axes.annotate("undefined", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=6.5)
    return drawn


def _handle(order: str, color: str) -> Line2D:
    """How an order is drawn: filled points, hollow points, or the dashed line of chance."""
    if order == "random":
        return Line2D([], [], color=color, lw=0.8, ls=CHANCE, label=ORDERS[order])
    hollow = order == "rollout"
    return Line2D(
        [], [], color=color, lw=1.0, ls=":" if hollow else "-", marker="s" if hollow else "o", ms=2.8,
        mfc=PAPER if hollow else color, label=ORDERS[order],
    )  # fmt: skip


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names, orders = _names(table, facts), _orders(table)
    own = rows(table, PROBE, "deletion_curve_random")
    best = next((name for name in orders if name != "random"), None)
    scored = listed(list(dict.fromkeys(own["objective"])))
    return (
        f"Share of each image's score that is left while cells of it are removed (above) and that is there while they "
        f"are added to the mean colour (below), over {on_images(own, facts)}; the score is the {scored}"
        f"{seeds(facts)}{options(names, facts)}.",
        "A ranking that finds what the model needs falls faster above and rises faster below than the dashed random "
        "order; bands are 95 % intervals over images, 1 is the whole image and 0 none of it" + undefined(own, names),
        _shows(table, facts, names, best),
        caution(
            "Pictures with holes are unlike those the model was trained on, and a ranking that beats chance says what "
            "moves this model, not what is true of the picture",
            names,
            own,
            facts,
        ),
    )


def undefined(own: pd.DataFrame, names: list[str]) -> str:
    """The end of a sentence: models whose score images do not raise beyond chance have no shares."""
    without = [name for name in names if own.loc[own["model"] == name, "value"].isna().all()]
    return f"; undefined for {listed(without)}, whose score is not surely raised by images." if without else "."


def _shows(table: pd.DataFrame, facts: Facts, names: list[str], best: str | None) -> str:
    """Sentence three: the gain over chance of the first ranking, compared or alone."""
    if best is None:
        area = of_model(table, PROBE, "deletion_area_random", names[0])
        text = show(area, "deletion_area_random")
        return f"Removed at random, the area above is {text} in {names[0]}; no ranking was measured."
    metric = f"deletion_gain_{best}"
    quantity = f"gain of {ORDERS[best]} over a random order (difference of the areas above)"
    chosen = pair(names, families(table), facts)
    if chosen is not None:
        first, second = (of_model(table, PROBE, metric, name) for name in chosen)
        return compared(quantity, metric, (first, second), chosen)
    gain = of_model(table, PROBE, metric, names[0])
    return f"The {quantity} is {show(gain, metric)} in {names[0]}: {_against_chance(gain)}."


def _against_chance(gain: Estimate) -> str:
    if not gain.bounded:
        return "without an interval, it is not told from chance"
    if gain.low > 0:
        return "better than chance"
    return "worse than chance" if gain.high < 0 else "not told from chance"


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text: areas and gains of every model and order."""
    lines = []
    for name in _names(table, facts):
        for order in _orders(table):
            line = {"model": name, "order": ORDERS[order]}
            for kind in KINDS:
                for what in ("area", "gain"):
                    metric = f"{kind}_{what}_{order}"
                    kept = of_model(table, PROBE, metric, name)
                    line[f"{kind}, {what}"] = show(kept, metric) if what == "area" or order != "random" else "–"
            lines.append(line)
    return pd.DataFrame(lines)
