"""Accuracy against the learning rate of fine-tuning, a band a model; and curvature along the way where measured."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdlab.records.metrics.names import OF_FINETUNING
from fdlab.report.captions import Caption, caution, compared, listed, options, pair
from fdlab.report.style import COLUMN, INK, WIDE, Look, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, estimate, families, models, plain, rows, show

TITLE = "Fine-tuning over learning rates"
METRICS = ("best_accuracy", "lr_width", "steps_to_loss", "diverged")
TOGETHER = 6  # more models than these get a panel each, the others behind it in grey
COLUMNS = 5
CURVATURE = "eigenvalue_1_balanced"


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "trainability", "accuracy").empty


def _means(table: pd.DataFrame, metric: str, name: str) -> pd.DataFrame:
    """The means over seeds of one model, by x; the seeds' own rows where there is a single seed."""
    own = rows(table, "trainability", metric)
    own = own[own["model"] == name]
    joined = own[own["seed"].isna()]
    return (joined if len(joined) else own).sort_values("x")


def _single(table: pd.DataFrame, metric: str, name: str) -> Estimate:
    return estimate(_means(table, metric, name))


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """One panel for all models where they are few, else small multiples; a second panel with the curvature."""
    names, look = models(table, facts, "trainability"), looks_of(table, facts)
    if len(names) > TOGETHER:
        return _multiples(table, names, look)
    curved = [name for name in names if not _means(table, CURVATURE, name).empty]
    figure = new_figure(WIDE if curved else COLUMN, 2.5)
    grid = figure.subplots(1, 2 if curved else 1, squeeze=False)[0]
    for name in names:
        _band(grid[0], _means(table, "accuracy", name), look[name], scale=100, label=wrap(name, 24, 2))
    _rates(grid[0])
    grid[0].set_ylabel("test accuracy (%)")
    for name in curved:
        _band(grid[1], _means(table, CURVATURE, name), look[name])
    if curved:
        grid[1].set_yscale("log")
        grid[1].set_xlabel("step of fine-tuning at the best rate")
        grid[1].set_ylabel("balanced largest eigenvalue")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2 if curved else 1)
    return figure


def _multiples(table: pd.DataFrame, names: list[str], look: dict[str, Look]) -> Figure:
    lines = math.ceil(len(names) / COLUMNS)
    figure = new_figure(WIDE, 0.5 + 1.25 * lines)
    grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        for other in names:
            mean = _means(table, "accuracy", other)
            axes.plot(mean["x"], 100 * mean["value"], color=INK, alpha=0.13, lw=0.7)
        name = names[place]
        _band(axes, _means(table, "accuracy", name), look[name], scale=100)
        axes.set_title(wrap(name, 22, 2), fontsize=6.5)
        _rates(axes, label=place + COLUMNS >= len(names))
        if place + COLUMNS >= len(names):
            axes.tick_params(labelbottom=True)
    for row in grid:
        row[0].set_ylabel("accuracy (%)")
    return figure


def _rates(axes: Axes, label: bool = True) -> None:
    axes.set_xscale("log")
    axes.grid(axis="y")
    if label:
        axes.set_xlabel("learning rate")


def _band(axes: Axes, mean: pd.DataFrame, look: Look, scale: float = 1, label: str | None = None) -> None:
    x, value = mean["x"].to_numpy(float), scale * mean["value"].to_numpy(float)
    axes.plot(x, value, ls=look.line, lw=1.2, label=label, **look.points(3.5))
    low, high = scale * mean["low"].to_numpy(float), scale * mean["high"].to_numpy(float)
    axes.fill_between(x, low, high, color=look.color, alpha=0.15, lw=0)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = rows(table, "trainability", "accuracy")
    names = models(table, facts, "trainability")
    seeds, rates = own["seed"].dropna().nunique(), own["x"].nunique()
    alone = f" {OF_FINETUNING.removeprefix('seeds ')}" if OF_FINETUNING in set(own["objective"]) else ""
    band = f"95 % t-intervals over {seeds} seeds{alone}" if seeds > 1 else "of the test images alone (one seed)"
    chosen = pair(names, families(table), facts)
    if chosen is None:
        third = (
            f"The best accuracy of {names[0]} is {show(_single(table, 'best_accuracy', names[0]), 'accuracy', True)}."
        )
    else:
        values = (_single(table, "best_accuracy", chosen[0]), _single(table, "best_accuracy", chosen[1]))
        third = compared("best accuracy", "accuracy", values, chosen).rstrip(".")
        widths = [f"{plain(_single(table, 'lr_width', name).value)} for {name}" for name in chosen]
        third += f", and the good rates span {listed(widths)} decades."
    grey = ", grey lines are the other models" if len(names) > TOGETHER else ""
    curved = "; right, the curvature along the way" if not rows(table, "trainability", CURVATURE).empty else ""
    return (
        f"Test accuracy after fine-tuning {len(names)} model{'s' if len(names) > 1 else ''} with one budget at {rates} "
        f"learning rates{options(names, facts)}{curved}.",
        f"A high curve fine-tunes well and a broad one is easy to tune; bands are {band}{grey}.",
        third,
        caution(
            "With this budget and these rates only: a longer fine-tuning can order the models differently, and a "
            "curve that still rises at the edge has its best beyond it",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in models(table, facts, "trainability"):
        lost = rows(table, "trainability", "diverged")
        lost = lost[(lost["model"] == name) & lost["seed"].notna()]
        lines.append(
            {
                "model": name,
                "best accuracy % (95 %)": _text(_single(table, "best_accuracy", name), 100, 1),
                "best rate, by seed": _rates_of(table, name),
                "lr_width, decades": _text(_single(table, "lr_width", name), 1, 2),
                "steps_to_loss": _text(_single(table, "steps_to_loss", name), 1, 0),
                "diverged": f"{lost['value'].sum():.0f} of {len(lost)}",
            }
        )
    return pd.DataFrame(lines)


def _rates_of(table: pd.DataFrame, name: str) -> str:
    own = rows(table, "trainability", "best_rate")
    own = own[(own["model"] == name) & own["seed"].notna() & own["value"].notna()].sort_values("seed")
    return " / ".join(f"{rate:g}" for rate in own["value"]) or "–"


def _text(value: Estimate, scale: float, digits: int) -> str:
    if not value.known:
        return "–"
    text = f"{scale * value.value:.{digits}f}"
    return text + (f" ({scale * value.low:.{digits}f} to {scale * value.high:.{digits}f})" if value.bounded else "")
