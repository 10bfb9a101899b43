"""Loss and accuracy on the straight line from one model to another."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, options, seeds
from fdlab.report.style import COLUMN, WIDE, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, along, models, rows

TITLE = "From one model to another"
METRICS = ("loss_interpolation", "accuracy_interpolation")


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "landscape", "loss_interpolation").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A line a starting model; loss left, accuracy right where it is known."""
    names, look = models(rows(table, "landscape", METRICS[0]), facts, "landscape"), looks_of(table, facts)
    metrics = [metric for metric in METRICS if not rows(table, "landscape", metric).empty]
    figure = new_figure(WIDE if len(metrics) > 1 else COLUMN, 2.0 + 0.16 * -(-len(names) // 3))
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for name in names:
            own = along(rows(table, "landscape", metric), name)
            style = look[name].points(3.2)
            label = wrap(name, 24, 2) if metric == metrics[0] else None
            axes.plot(own["x"], own["value"], ls=look[name].line, lw=1.0, label=label, **style)
        axes.set_xlabel("share of the way")
        axes.set_ylabel("loss (nats)" if metric == METRICS[0] else "accuracy")
        axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=min(len(names), 3))
    return figure


def barrier(table: pd.DataFrame, name: str) -> float:
    """The highest loss on the way above the straight line between the ends' losses (Frankle et al. 2020)."""
    own = along(rows(table, "landscape", METRICS[0]), name)
    first, last = float(own["value"].iloc[0]), float(own["value"].iloc[-1])
    return float((own["value"] - (first + (last - first) * own["x"])).max())


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = rows(table, "landscape", METRICS[0])
    names = models(own, facts, "landscape")
    heights = {name: barrier(table, name) for name in names}
    known = {name: f"{height:.2g} nats" if height == height else "unknown" for name, height in heights.items()}
    parts = [f"{height} from {name}" for name, height in known.items()]
    return (
        f"Loss and accuracy on {int(own['n'].max())} images on the straight line between the weights of two models, "
        f"heads included: {own['objective'].iloc[0]}{seeds(facts)}{options(names, facts)}.",
        "0 is the model named, 1 the other one; a bump is a barrier between them.",
        f"The highest loss above the line between the ends is {', '.join(parts)}.",
        caution(
            "A barrier on the straight line does not separate two solutions: the same functions can lie elsewhere in "
            "weight space, and a curved path may be flat",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    accuracy = rows(table, "landscape", METRICS[1])
    right = dict(zip(zip(accuracy["model"], accuracy["x"], strict=True), accuracy["value"], strict=True))
    own = rows(table, "landscape", METRICS[0])
    return pd.DataFrame(
        [
            {
                "model": model,
                "share of the way": f"{x:.3g}",
                "loss": f"{value:.4g}" if value == value else "not finite",
                "accuracy": f"{right[model, x]:.3f}" if right.get((model, x), float("nan")) >= 0 else "–",
            }
            for model, x, value in zip(own["model"], own["x"], own["value"], strict=True)
        ]
    )
