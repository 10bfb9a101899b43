"""The spectrum of the Hessian: which share of the eigenvalues lies where, down to a single one, both signs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, options, pair, seeds
from fdlab.report.style import COLUMN, FAINT, WIDE, Look, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, families, models, rows, show

TITLE = "Spectrum of the Hessian"
METRICS = ("spectral_mass",)
ACROSS, RESOLVED, DECADES = 4, 1e-6, 5


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "hessian", "spectral_mass").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A panel a model, all on one scale: mass in bins of a signed logarithmic axis."""
    mass = rows(table, "hessian", "spectral_mass")
    names = models(mass, facts, "hessian")
    look = looks_of(table, facts)
    bands = math.ceil(len(names) / ACROSS)
    across = math.ceil(len(names) / bands)
    figure = new_figure(COLUMN if across < 3 else WIDE, 0.45 + 1.35 * bands)
    grid = figure.subplots(bands, across, squeeze=False, sharex=True, sharey=True)
    top = float(mass["x"].abs().max())
    floor = min(_single(mass[mass["model"] == name]) for name in names)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_axis_off()
            continue
        own = mass[mass["model"] == names[place]]
        _panel(axes, own, look[names[place]], top, floor)
        axes.set_title(wrap(names[place], 20, 2), loc="left")
        if place % across == 0:
            axes.set_ylabel("share of eigenvalues")
        if place + across >= len(names):
            axes.set_xlabel("eigenvalue")
            axes.tick_params(labelbottom=True)
    return figure


def _single(mass: pd.DataFrame) -> float:
    """The mass of one eigenvalue, 1 / P: that of the largest, which is always an atom."""
    return float(mass["value"].to_numpy()[int(mass["x"].to_numpy().argmax())])


def _panel(axes: Axes, mass: pd.DataFrame, look: Look, top: float, floor: float) -> None:
    edges, places = _bins(top)
    counted, _ = np.histogram(mass["x"], bins=edges, weights=mass["value"])
    shown = np.where(counted > 0, counted, np.nan)
    axes.stairs(np.nan_to_num(shown), places, baseline=floor / 3, fill=True, color=look.color, alpha=0.35, lw=0)
    axes.stairs(np.nan_to_num(shown), places, baseline=floor / 3, color=look.color, lw=0.9)
    middle = places[np.searchsorted(edges, 0) - 1], places[np.searchsorted(edges, 0)]
    axes.axvspan(*middle, color=FAINT, alpha=0.5, lw=0, zorder=0)
    axes.axhline(_single(mass), color=FAINT, lw=0.7, ls=":")
    axes.set_yscale("log")
    axes.set_ylim(floor / 3, 2)
    ticks = [power for power in range(-DECADES, 1) if power % 2 == 0]
    scale = math.floor(math.log10(top)) if top > 0 else 0
    at, words = [0.0], ["0"]
    for power in ticks:
        place = _place(10.0 ** (scale + power), top)
        if place > 1.2:
            at += [place, -place]
            words += [f"$10^{{{scale + power}}}$", f"$-10^{{{scale + power}}}$"]
    axes.set_xticks(at, words, fontsize=6)
    axes.tick_params(axis="x", rotation=60)


def _bins(top: float, each: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Bin edges, mirrored about a middle bin that holds what has no sign, and where each is drawn."""
    positive = top * 10 ** np.linspace(-DECADES, 0.1, DECADES * each + 1)
    edges = np.concatenate([-positive[::-1], positive])
    return edges, np.array([math.copysign(_place(abs(edge), top), edge) for edge in edges])


def _place(magnitude: float, top: float) -> float:
    """Decades above the smallest that is drawn, from half a decade on: a signed logarithmic axis."""
    return 0.5 + max(0.0, math.log10(magnitude / top) + DECADES) if magnitude > 0 and top > 0 else 0.0


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    mass = rows(table, "hessian", "spectral_mass")
    names = models(mass, facts, "hessian")
    said = mass["objective"].iloc[0]
    return (
        f"Spectral density of the Hessian of this loss: {said}{seeds(facts)}{options(names, facts)}.",
        "Both axes are logarithmic, negative eigenvalues stand left of 0, the dotted line is the share of a single "
        f"eigenvalue, and the grey band holds everything within {10.0**-DECADES:.0e} of the largest, whose sign is not "
        "resolved.",
        _comparison(table, facts, names),
        caution(
            "Places between the outliers are a quadrature and not single eigenvalues, and the whole picture moves "
            "under scales that leave the function alone",
            names,
            mass,
            facts,
        ),
    )


def _comparison(table: pd.DataFrame, facts: Facts, names: list[str]) -> str:
    chosen = pair(names, families(table), facts)
    if chosen is None:
        value = show(whole(table, "negative_mass", names[0]), "negative_mass")
        return f"In {names[0]}, the negative share of the curvature is {value}; there is no second model."
    values = whole(table, "negative_mass", chosen[0]), whole(table, "negative_mass", chosen[1])
    return compared("negative share of the curvature", "negative_mass", values, chosen)


def whole(table: pd.DataFrame, metric: str, model: str) -> Estimate:
    """A model's value of a Hessian metric over all its parameters."""
    own = rows(table, "hessian", metric)
    own = own[(own["model"] == model) & own["block"].isna()]
    if own.empty:
        return Estimate(math.nan, math.nan, math.nan)
    first = own.iloc[0]
    return Estimate(float(first["value"]), float(first["low"]), float(first["high"]))


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in models(rows(table, "hessian", "spectral_mass"), facts, "hessian"):
        line = {"model": name}
        for metric in (
            "eigenvalue_1",
            "eigenvalue_lowest",
            "trace",
            "negative_mass",
            "objective_loss",
            "gradient_norm",
        ):
            line[metric] = show(whole(table, metric, name), metric)
        lines.append(line)
    return pd.DataFrame(lines)
