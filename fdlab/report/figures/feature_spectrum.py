"""Over how many directions the images' features spread: the falling singular values of the last block."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, on_data, options, pair, seeds
from fdlab.report.style import COLUMN, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, along, estimate, families, models, plain, rows, show

TITLE = "Singular values of the last block's features"
METRICS = ("singular_value", "effective_rank")
FLOOR = 1e-7  # shares below are rounding


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "features", "singular_value").empty


def last(table: pd.DataFrame, metric: str, name: str) -> pd.DataFrame:
    """The rows of a model's last block."""
    found = rows(table, "features", metric)
    own = found[found["model"] == name]
    return own[own["block"] == own["block"].max()]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A line a model on logarithmic axes, its interval as a band."""
    names = models(rows(table, "features", "singular_value"), facts, "features")
    look = looks_of(table, facts)
    figure = new_figure(COLUMN, 2.0 + 0.14 * len(names))
    axes = figure.subplots()
    for name in names:
        data = along(last(table, "singular_value", name), name)
        data = data[data["value"] > FLOOR]
        own = look[name]
        axes.fill_between(data["x"], data["low"].clip(lower=FLOOR), data["high"], color=own.color, alpha=0.2, lw=0)
        axes.plot(data["x"], data["value"], color=own.color, ls=own.line, label=wrap(name, 34, 1))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(FLOOR, axes.get_ylim()[0]))
    axes.set_xlabel("singular value, largest first")
    axes.set_ylabel("share of their sum")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _rank(table: pd.DataFrame, name: str) -> Estimate:
    return estimate(last(table, "effective_rank", name))


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = rows(table, "features", "singular_value")
    names = models(own, facts, "features")
    chosen = pair(names, families(table), facts)
    if chosen is None:
        shows = f"The effective rank of {names[0]} is {show(_rank(table, names[0]), 'effective_rank')}; "
        shows += "there is no second model."
    else:
        ranks = (_rank(table, chosen[0]), _rank(table, chosen[1]))
        shows = compared("effective rank of the last block", "effective_rank", ranks, chosen)
    return (
        "Singular values of the images' centred mean patch tokens at the last block, each as a share of their sum, "
        f"over {on_data(own, facts)}{seeds(facts)}{options(names, facts)}.",
        "A line that falls fast means that few directions tell the images apart, bands are 95 % intervals over images; "
        "there are at most as many values as images less one.",
        shows,
        caution(
            "The smallest values follow from the number of images and the width of the model, so only the same images "
            "compare, and untrained models can have a flat spectrum too",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in models(rows(table, "features", "singular_value"), facts, "features"):
        shares = last(table, "singular_value", name).groupby("x")["value"].mean()
        line = {"model": name, "effective rank (95 %)": show(_rank(table, name), "effective_rank")}
        for place in (1, 2, 10):
            line[f"share of value {place}"] = plain(shares[place], ".3g") if place in shares.index else "–"
        lines.append(line)
    return pd.DataFrame(lines)
