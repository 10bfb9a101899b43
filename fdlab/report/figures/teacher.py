"""How much of the teacher a model's tokens hold, beyond what position alone gives; and what the loss says."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, listed, on_data, options, seeds
from fdlab.report.style import INK, WIDE, bars, looks_of, new_figure, number_above, wrap
from fdlab.report.summary import Facts, control_of, families, models, of_model, rows, show, trained

TITLE = "How much of the teacher a model holds"
METRICS = ("teacher_r2",)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "features", "teacher_r2").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A row a model: teacher_r2 with its interval; where known, the distillation loss beside it."""
    names = models(rows(table, "features", "teacher_r2"), facts, "features")
    look = looks_of(table, facts)
    losses = {name: float(loss) for name, loss in facts.get("distil_loss", {}).items() if name in names}
    figure = new_figure(WIDE, 0.6 + 0.29 * max(len(names), 2))
    grid = figure.subplots(1, 2 if losses else 1, sharey=True, squeeze=False, width_ratios=[2, 1] if losses else [1])[0]
    for place, name in enumerate(names):
        value = of_model(table, "features", "teacher_r2", name)
        if value.known:
            _dot(grid[0], value.value, place, f"{value.value:.2f}", xerr=bars(value), **look[name].points(5))
        if name in losses:
            _dot(grid[1], losses[name], place, f"{losses[name]:.3g}", **look[name].points(5))
    for axes in grid:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    grid[0].set_yticks(range(len(names)), [wrap(name, 26, 2) for name in names], fontsize=7)
    grid[0].set_ylim(len(names) - 0.4, -0.6)
    grid[0].set_xlim(min(0.0, grid[0].get_xlim()[0]), 1.04)
    grid[0].set_xlabel("teacher_r2, 95 % over images")
    if losses:
        _losses(grid[1], facts)
    return figure


def _dot(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    axes.errorbar([x], [y], ls="", elinewidth=1.0, **style)  # type: ignore[arg-type]
    number_above(axes, text, x, y)


def _losses(axes: Axes, facts: Facts) -> None:
    """The loss axis from 0, so that lengths can be compared, with the line of the position mean."""
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=3)
    axes.set_xlabel("distillation loss")
    line = facts.get("position_only_loss")
    if line is not None and math.isfinite(line):
        axes.axvline(line, color=INK, lw=0.8, ls=(0, (4, 2.5)))
        axes.set_xlim(0, 1.35 * max(line, axes.get_xlim()[1] / 1.35))
        axes.annotate(
            "position\nmean only",
            (line, 0.02),
            (-3, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=6,
        )


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = rows(table, "features", "teacher_r2")
    names = models(own, facts, "features")
    loss = facts.get("position_only_loss")
    statement = ""
    if facts.get("distil_loss") and loss is not None:
        ended = [f"{value:.3g} in {name}" for name, value in facts["distil_loss"].items()]
        statement = (
            f", and the distillation loss ended at {listed(ended)}, while predicting the position mean alone "
            f"gives {loss:.3g}"
        )
    return (
        "Share of the whitened teacher tokens' variance beyond their position mean that a ridge regression "
        "from a "
        f"model's tokens explains on held-out images (teacher_r2), over {on_data(own, facts)}{seeds(facts)}"
        f"{options(names, facts)}.",
        "1 means that the teacher can be read out of the model linearly, 0 that nothing beyond position "
        "can; bars are "
        "95 % intervals over images, grey hollow markers are untrained models"
        + (", the dashed line is the loss of the position mean." if statement else "."),
        _comparison(table, facts, names).rstrip(".") + statement + ".",
        caution(
            f"{_untrained(table, names)}, and a low distillation loss by itself says little",
            names[:1],
            own,
            facts,
        ),
    )


def _untrained(table: pd.DataFrame, names: list[str]) -> str:
    """What an untrained model is worth, as far as this table tells."""
    starts = [name for name in names if families(table).get(name) == "random"]
    if not starts:
        return "An untrained model is not at 0, and none stands here"
    large = max(of_model(table, "features", "teacher_r2", name).value for name in starts) >= 0.3
    share = "already explains a large share" if large else "explains a share too"
    return f"An untrained model {share}, so only what lies above the grey markers was learnt"


def _comparison(table: pd.DataFrame, facts: Facts, names: list[str]) -> str:
    """The first distilled model against the untrained control of its design."""
    family = families(table)
    real = [name for name in trained(names, family) if family.get(name) == "distilled"] or trained(names, family)
    name = real[0]
    other = control_of(name, facts, names) or next((n for n in names if n != name), None)
    value = of_model(table, "features", "teacher_r2", name)
    if other is None:
        return f"{name} explains {show(value, 'teacher_r2')}; there is no second model to compare it with."
    values = (value, of_model(table, "features", "teacher_r2", other))
    return compared("explained share", "teacher_r2", values, (name, other))


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in models(rows(table, "features", "teacher_r2"), facts, "features"):
        value = of_model(table, "features", "teacher_r2", name)
        loss = facts.get("distil_loss", {}).get(name)
        lines.append(
            {
                "model": name,
                "teacher_r2 (95 %)": show(value, "teacher_r2"),
                "images": str(value.n or "–"),
                "distillation loss": "–" if loss is None else f"{loss:.3g}",
            }
        )
    return pd.DataFrame(lines)
