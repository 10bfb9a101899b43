"""The loss along random lines through the weights: a panel a model, all on one scale."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import bands, stacked
from fdlab.report.numbers import spanned
from fdlab.report.report import BOUNDED, Report, along
from fdlab.report.style import COLUMN, FAINT, WIDE, new_figure

ACROSS = 4


class LandscapeLine(Figure):
    """Loss above, accuracy below where it is known; the other models stand behind in light grey."""

    metrics = ("loss_line", "accuracy_line")
    probe, metric, written_as = "landscape", "loss_line", "loss"

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        if self.present:
            away = self.rows["x"].abs().max() / 2
            self.distance = float(self.rows[self.rows["x"] >= away]["x"].min())  # where the rises are compared

    def draw(self) -> Drawing:
        labels = {"loss_line": "loss (nats)", "accuracy_line": "accuracy"}
        labels = {metric: label for metric, label in labels.items() if self.report.has(self.probe, metric)}
        down, across = bands(len(self.names), ACROSS)
        figure = new_figure(COLUMN if across < 3 else WIDE, 0.4 + down * (0.2 + 1.15 * len(labels)))
        grid = figure.subplots(down * len(labels), across, squeeze=False, sharex=True, sharey="none")
        below = "distance (filter lengths)" if across < 3 else "distance"
        for axes, name, metric in stacked(grid, self.names, labels, (19, 2), below):
            self._panel(axes, metric, name)
        figure.align_ylabels()
        return figure

    def _panel(self, axes: Axes, metric: str, name: str) -> None:
        for other in self.names:
            if other != name:
                curve = along(self.of(other, metric), other)
                axes.plot(curve["x"], curve["value"], color=FAINT, lw=0.7, zorder=1)
        curve, color = along(self.of(name, metric), name), self.looks[name].color
        axes.plot(curve["x"], curve["value"], color=color, ls="-", lw=1.2)
        axes.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.2, lw=0)
        if metric == self.metric:
            self._scale_of_losses(axes)
        else:
            axes.set_ylim(0, 1.02)

    def _scale_of_losses(self, axes: Axes) -> None:
        """One scale for all panels; logarithmic where the loss spans more than a decade."""
        low = float(np.nanmin(self.rows[["low", "value"]]))
        high = float(np.nanmax(self.rows[["high", "value"]]))
        if low > 0 and high > 10 * low:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.3, high * 1.3)
        else:
            axes.set_ylim(min(0.0, low), 1.05 * high)

    def value(self, name: str) -> Estimate:
        """The rise of the median at the chosen distance, with the band of the directions."""
        curve = along(self.rows, name)
        base, there = curve[curve["x"] == 0]["value"], curve[curve["x"] == self.distance]
        if base.empty or there.empty:
            return UNKNOWN
        value, low, high = (float(there.iloc[0][part] - base.iloc[0]) for part in BOUNDED)
        return Estimate(value, low, high)

    def shows(self) -> str:
        return super().shows().replace("intervals", "bands")

    def lines(self) -> Lines:
        for name in self.names:
            for x, *loss in along(self.rows, name).to_numpy():
                text = spanned(Estimate(*loss)) if Estimate(*loss).known else "not finite"
                yield {"model": name, "distance": f"{x:g}", "median loss (10 to 90 %)": text}
