"""The spectrum of the Hessian: which share of the eigenvalues lies where, down to a single one, both signs."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import bands, filled, label_outer
from fdlab.report.numbers import show
from fdlab.report.style import COLUMN, FAINT, WIDE, new_figure, wrap

ACROSS, DECADES = 4, 5
NUMBERS = ("eigenvalue_1", "eigenvalue_lowest", "trace", "negative_mass", "objective_loss", "gradient_norm")


class HessianSpectrum(Figure):
    """A panel a model, all on one scale: mass in bins of a signed logarithmic axis."""

    metrics = ("spectral_mass",)
    probe, metric, headline = "hessian", "spectral_mass", "negative_mass"
    resolved = 10.0**-DECADES

    def draw(self) -> Drawing:
        down, across = bands(len(self.names), ACROSS)
        figure = new_figure(COLUMN if across < 3 else WIDE, 0.45 + 1.35 * down)
        grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for number, axes, name in filled(grid, self.names):
            self._panel(axes, name)
            axes.set_title(wrap(name, 20, 2), loc="left")
            label_outer(axes, number, grid, len(self.names), "eigenvalue", "share of eigenvalues")
        return figure

    def single(self, name: str) -> float:
        """The mass of one eigenvalue, 1 / P: that of the largest, which is always an atom."""
        mass = self.of(name)
        return float(mass["value"].to_numpy()[int(mass["x"].to_numpy().argmax())])

    def _panel(self, axes: Axes, name: str) -> None:
        mass, color = self.of(name), self.looks[name].color
        top, floor = float(self.rows["x"].abs().max()), min(self.single(other) for other in self.names)
        edges, places = _bins(top)
        counted, _ = np.histogram(mass["x"], bins=edges, weights=mass["value"])
        shown = np.where(counted > 0, counted, 0.0)
        axes.stairs(shown, places, baseline=floor / 3, fill=True, color=color, alpha=0.35, lw=0)
        axes.stairs(shown, places, baseline=floor / 3, color=color, lw=0.9)
        middle = int(np.searchsorted(edges, 0))
        axes.axvspan(places[middle - 1], places[middle], color=FAINT, alpha=0.5, lw=0, zorder=0)
        axes.axhline(self.single(name), color=FAINT, lw=0.7, ls=":")
        axes.set_yscale("log")
        axes.set_ylim(floor / 3, 2)
        axes.set_xticks(*_ticks(top), fontsize=6)
        axes.tick_params(axis="x", rotation=60)

    def lines(self) -> Lines:
        for name in self.names:
            yield {"model": name} | {metric: show(self.whole(metric, name), metric) for metric in NUMBERS}


def _bins(top: float, each: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Bin edges, mirrored about a middle bin that holds what has no sign, and where each is drawn."""
    positive = top * 10 ** np.linspace(-DECADES, 0.1, DECADES * each + 1)
    edges = np.concatenate([-positive[::-1], positive])
    return edges, np.array([math.copysign(_place(abs(edge), top), edge) for edge in edges])


def _place(magnitude: float, top: float) -> float:
    """Decades above the smallest that is drawn, from half a decade on: a signed logarithmic axis."""
    return 0.5 + max(0.0, math.log10(magnitude / top) + DECADES) if magnitude > 0 and top > 0 else 0.0


def _ticks(top: float) -> tuple[list[float], list[str]]:
    """Where the ticks are drawn, and their words: 0 and every second power of ten on both sides."""
    scale = math.floor(math.log10(top)) if top > 0 else 0
    places, words = [0.0], ["0"]
    for power in (scale + step for step in range(-DECADES, 1) if step % 2 == 0):
        place = _place(10.0**power, top)
        if place > 1.2:
            places += [place, -place]
            words += [f"$10^{{{power}}}$", f"$-10^{{{power}}}$"]
    return places, words
