"""The loss under growing noise: a line a model, the same directions for all."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.style import COLUMN, INK, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, along, families, models, of_model, rows, show

TITLE = "Rise of the loss under noise"
METRICS = ("noise_curve", "noise_to_rise")
LEVEL = 0.1


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "sharpness", "noise_curve").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Both axes logarithmic: a quadratic is a straight line of slope two."""
    curve = rows(table, "sharpness", "noise_curve")
    names, look = models(curve, facts, "sharpness"), looks_of(table, facts)
    figure = new_figure(COLUMN, 2.1 + 0.15 * -(-len(names) // 2))
    axes = figure.subplots()
    for name in names:
        own = along(curve[curve["value"] > 0], name)
        style = look[name].points(3.4)
        axes.plot(own["x"], own["value"], ls=look[name].line, lw=1.0, label=wrap(name, 24, 2), **style)
        known = own[own["low"].notna()]
        axes.fill_between(
            known["x"], known["low"].clip(lower=1e-6), known["high"], color=look[name].color, alpha=0.15, lw=0
        )
    axes.axhline(LEVEL, color=INK, lw=0.7, ls=(0, (4, 2.5)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(1e-3, float(curve.loc[curve["value"] > 0, "value"].min()) / 2))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("noise, in lengths of each filter")
    axes.set_ylabel("rise of the loss (nats)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = rows(table, "sharpness", "noise_curve")
    names = models(own, facts, "sharpness")
    chosen = pair(names, families(table), facts)
    if chosen is None:
        value = show(of_model(table, "sharpness", "noise_to_rise", names[0]), "noise_to_rise")
        third = f"The loss of {names[0]} has risen by {LEVEL} at {value}; there is no second model to compare it with."
    else:
        values = (
            of_model(table, "sharpness", "noise_to_rise", chosen[0]),
            of_model(table, "sharpness", "noise_to_rise", chosen[1]),
        )
        third = compared(f"noise at which the loss has risen by {LEVEL}", "noise_to_rise", values, chosen)
    return (
        f"Mean rise of the loss of {len(names)} model{'s' if len(names) > 1 else ''} on {int(own['n'].max())} images "
        f"when every filter is moved by Gaussian noise of this share of its length: {own['objective'].iloc[0]}"
        f"{seeds(facts)}{options(names, facts)}.",
        "Lower and further right is flatter; bands are 95 % intervals over random directions and images, the dashed "
        f"line is a rise of {LEVEL}.",
        third,
        caution(
            "Filters are normalised by rows, so a rescaling channel by channel moves the curve and not the function; "
            "losses of different objectives are not comparable",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    curve = rows(table, "sharpness", "noise_curve").sort_values(["model", "x"]).dropna(subset=["value"])
    spans = zip(*(curve[name] for name in ("model", "x", "value", "low", "high")), strict=True)
    return pd.DataFrame(
        [
            {"model": model, "noise": f"{x:.3g}", "rise (95 %)": _span(value, low, high)}
            for model, x, value, low, high in spans
        ]
    )


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.3g} ({low:.3g} to {high:.3g})" if low == low else f"{value:.3g}"
