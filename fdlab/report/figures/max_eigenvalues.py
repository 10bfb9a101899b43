"""Park & Kim's picture: the largest eigenvalues of every minibatch, pooled."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.style import COLUMN, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, families, models, of_model, plain, rows, show

TITLE = "Largest eigenvalues of minibatches"
METRICS = ("max_eigenvalue",)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "hessian", "max_eigenvalue").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A cumulative line a model on a logarithmic axis: no bins to choose."""
    pooled = rows(table, "hessian", "max_eigenvalue")
    names, look = models(pooled, facts, "hessian"), looks_of(table, facts)
    figure = new_figure(COLUMN, 2.0 + 0.14 * len(names))
    axes = figure.subplots()
    for name in names:
        values = np.sort(pooled[pooled["model"] == name]["value"])
        share = np.arange(1, len(values) + 1) / len(values)
        own = look[name]
        axes.step(values, share, where="post", color=own.color, ls=own.line, label=wrap(name, 30, 1))
    if pooled["value"].min() > 0:
        axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("eigenvalue of a minibatch's Hessian")
    axes.set_ylabel("share at or below")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    pooled = rows(table, "hessian", "max_eigenvalue")
    names = models(pooled, facts, "hessian")
    size = int(pooled["n"].dropna().iloc[0])
    count = int(pooled["x"].max()) + 1
    chosen = pair(names, families(table), facts)
    metric = "max_eigenvalue_mean"
    if chosen is None:
        value = show(of_model(table, "hessian", metric, names[0]), metric)
        comparison = f"The mean largest eigenvalue of {names[0]} is {value}; there is no second model."
    else:
        values = of_model(table, "hessian", metric, chosen[0]), of_model(table, "hessian", metric, chosen[1])
        comparison = compared("mean largest eigenvalue of a minibatch", metric, values, chosen)
    return (
        f"The five largest eigenvalues of the Hessian of each of {count} minibatches of {size} images, pooled: "
        f"{pooled['objective'].iloc[0]}{seeds(facts)}{options(names, facts)}.",
        "Each line rises from 0 to 1 over the pooled values; further left is flatter.",
        comparison,
        caution(
            f"Maxima over minibatches of {size} lie above the value of all images together, so numbers of other batch "
            "sizes, or with augmentation, do not compare",
            names,
            pooled,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    pooled = rows(table, "hessian", "max_eigenvalue")
    lines = []
    for name in models(pooled, facts, "hessian"):
        own = pooled[pooled["model"] == name]["value"]
        line = {"model": name, "values": str(len(own))}
        line["mean of the largest"] = show(of_model(table, "hessian", "max_eigenvalue_mean", name), "max_eigenvalue")
        line["median of all"] = plain(own.median(), ".3g")
        lines.append(line)
    return pd.DataFrame(lines)
