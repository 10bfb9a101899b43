"""How alike the heads of a block are, with their entropy below: near-uniform maps are alike by themselves."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import REFERENCE_LINE, bands, stacked
from fdlab.report.style import COLUMN, FAINT, INK, WIDE, bars, new_figure

LABELS = {"head_similarity": "similarity", "entropy": "entropy / log N", "distance_spread": "spread (px)"}
UNIFORM = {"head_similarity": 1.0, "entropy": 1.0, "distance_spread": 0.0}  # of uniform attention in any model
SHUFFLED = "head_similarity_shuffled"
ACROSS = 5


class HeadSimilarity(Figure):
    """A column a model, a row a quantity; the other models stand behind in light grey."""

    metrics = tuple(LABELS)
    probe, metric, late = "attention", "head_similarity", True

    @cached_property
    def shown(self) -> list[str]:
        """The models with a column of their own."""
        return self.report.trained(self.names)

    @cached_property
    def known(self) -> list[str]:
        """The quantities that the table has."""
        return [metric for metric in LABELS if self.report.has(self.probe, metric)]

    @cached_property
    def series(self) -> dict[tuple[str, str], pd.DataFrame]:
        """(quantity, model) -> its values by block."""
        wanted = [(metric, name) for metric in (*self.known, SHUFFLED) for name in self.names]
        return {(metric, name): self.report.by_block(metric, name) for metric, name in wanted}

    def draw(self) -> Drawing:
        down, across = bands(len(self.shown), ACROSS)
        height = 0.45 + down * (0.25 + 0.95 * len(self.known))
        figure = new_figure(COLUMN if across == 1 else WIDE, height)
        grid = figure.subplots(down * len(self.known), across, squeeze=False, sharex=True, sharey="none")
        top = float(np.nanmax(self.report.rows(self.probe, "distance_spread")[["value", "high"]], initial=0.0))
        labels, title = {metric: LABELS[metric] for metric in self.known}, (15 if across > 4 else 19, 3)
        for axes, name, metric in stacked(grid, self.shown, labels, title, "relative depth"):
            self._lines(axes, metric, name)
            axes.set_ylim(0, 1.02 if metric != "distance_spread" else 1.08 * top if top > 0 else 1)
            axes.set_xlim(0, 1.07)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        figure.align_ylabels()
        handles = self._handles()
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 1)
        return figure

    def _lines(self, axes: Axes, metric: str, name: str) -> None:
        for other in self.shown:
            if other != name:
                data = self.series[metric, other]
                axes.plot(data["depth"], data["value"], color=FAINT, lw=0.7, zorder=1)
        control = self.report.control_of(name, self.names)
        if control is not None:
            data = self.series[metric, control]
            axes.plot(data["depth"], data["value"], color=self.looks[control].color, lw=1.0, ls=":")
        data, look = self.series[metric, name], self.looks[name]
        axes.errorbar(
            data["depth"], data["value"], yerr=bars(data), ls=look.line, lw=1.2, elinewidth=0.8, zorder=3,
            **look.points(3.6 if len(data) <= 6 else 2.6),
        )  # fmt: skip
        axes.axhline(UNIFORM[metric], zorder=1, clip_on=False, **REFERENCE_LINE)
        shuffled = self.series[SHUFFLED, name]
        if metric == self.metric and len(shuffled):
            axes.plot(shuffled["depth"], shuffled["value"], color=look.color, lw=0.7, zorder=2)

    def _handles(self) -> list[Line2D]:
        handles = [Line2D([], [], **REFERENCE_LINE, label="uniform attention")]
        if len(self.shown) > 1:
            handles.append(Line2D([], [], color=FAINT, lw=0.9, label="other trained models"))
        if self.any_control:
            grey = next((self.looks[name].color for name in self.names if self.report.untrained(name)), FAINT)
            handles.append(Line2D([], [], color=grey, lw=1.2, ls=":", label="untrained, same design"))
        if any(len(self.series[SHUFFLED, name]) for name in self.shown):
            handles.append(Line2D([], [], color=INK, lw=0.7, label="keys shuffled"))
        return handles

    def terms(self) -> dict[str, object]:
        shuffled = self.report.has(self.probe, SHUFFLED)
        return {"entropy": "entropy" in self.known, "spread": "distance_spread" in self.known, "shuffled": shuffled}

    def lines(self) -> Lines:
        shuffled = {SHUFFLED: "similarity, keys shuffled"} if self.report.has(self.probe, SHUFFLED) else {}
        return self.lines_by_block(LABELS | shuffled)
