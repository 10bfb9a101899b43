"""How much the loss rises around the weights: a panel a measure, a row a model, with intervals."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.style import COLUMN, WIDE, bars, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, families, models, of_model, rows, show

TITLE = "Sharpness: how much the loss rises around the weights"
SHOWN = {
    "noise_to_rise": "noise to a rise of 0.1",
    "sharpness_adaptive": "adaptive, average",
    "sharpness_adaptive_worst": "adaptive, worst",
    "sharpness_average": "plain, average",
    "sharpness_worst": "plain, worst",
}
METRICS = tuple(SHOWN)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return any(not rows(table, "sharpness", metric).empty for metric in SHOWN)


def _metrics(table: pd.DataFrame) -> list[str]:
    return [metric for metric in SHOWN if not rows(table, "sharpness", metric).empty]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Panels of their own scales: the measures have different radii and are not comparable with each other."""
    names, look, metrics = models(table, facts, "sharpness"), looks_of(table, facts), _metrics(table)
    figure = new_figure(COLUMN if len(metrics) < 3 else WIDE, 0.6 + 0.27 * max(len(names), 2))
    grid = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(grid, metrics, strict=True):
        for place, name in enumerate(names):
            value = of_model(table, "sharpness", metric, name)
            if value.known:
                axes.errorbar([value.value], [place], xerr=bars(value), ls="", elinewidth=1.0, **look[name].points(4.5))
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_xlabel(SHOWN[metric].replace(", ", ",\n").replace("to a rise", "to a\nrise"))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    grid[0].set_yticks(range(len(names)), [wrap(name, 22, 2) for name in names], fontsize=7)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names, metric = models(table, facts, "sharpness"), _metrics(table)[0]
    own = rows(table, "sharpness", metric)
    count = int(own["n"].max())
    flatter = "right" if metric == "noise_to_rise" else "left"
    chosen = pair(names, families(table), facts)
    if chosen is None:
        value = show(of_model(table, "sharpness", metric, names[0]), metric)
        third = f"The {SHOWN[metric]} of {names[0]} is {value}; there is no second model to compare it with."
    else:
        values = (of_model(table, "sharpness", metric, chosen[0]), of_model(table, "sharpness", metric, chosen[1]))
        third = compared(SHOWN[metric], metric, values, chosen)
    return (
        f"Rise of this loss around the weights of {len(names)} model{'s' if len(names) > 1 else ''} on {count} images: "
        f"{own['objective'].iloc[0]}{seeds(facts)}{options(names, facts)}.",
        f"In the first panel further {flatter} is flatter"
        + (", in the others further left" if metric == "noise_to_rise" and len(_metrics(table)) > 1 else "")
        + "; bars are 95 % intervals over random directions and images (worst cases: over images, at the place found).",
        third,
        caution(
            "The plain measures move when weights are rescaled and the function is not, the adaptive ones do not, and "
            "none of them says how well a model generalises or fine-tunes",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    return pd.DataFrame(
        [
            {
                "model": name,
                **{
                    SHOWN[metric]: show(of_model(table, "sharpness", metric, name), metric)
                    for metric in _metrics(table)
                },
            }
            for name in models(table, facts, "sharpness")
        ]
    )
