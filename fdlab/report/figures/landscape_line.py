"""The loss along random lines through the weights: a panel a model, all on one scale."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.report.figures.figure import Figure
from fdlab.report.figures.layout import bands
from fdlab.report.numbers import spanned
from fdlab.report.report import PARTS, Report, along
from fdlab.report.style import COLUMN, FAINT, WIDE, new_figure, wrap

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
        names = self.names
        metrics = [metric for metric in self.metrics if self.report.has(self.probe, metric)]
        down, across = bands(len(names), ACROSS)
        figure = new_figure(COLUMN if across < 3 else WIDE, 0.4 + down * (0.2 + 1.15 * len(metrics)))
        grid = figure.subplots(down * len(metrics), across, squeeze=False, sharex=True, sharey="none")
        for number in range(down * across):
            band, column = divmod(number, across)
            for line, metric in enumerate(metrics):
                axes = grid[band * len(metrics) + line, column]
                if number >= len(names):
                    axes.set_axis_off()
                    continue
                self._panel(axes, metric, names[number])
                if column == 0:
                    axes.set_ylabel("loss (nats)" if metric == self.metric else "accuracy")
                else:
                    axes.tick_params(labelleft=False)
                if line == 0:
                    axes.set_title(wrap(names[number], 19, 2), loc="left")
                last = line == len(metrics) - 1 and number + across >= len(names)
                axes.tick_params(labelbottom=last)
                if last:
                    axes.set_xlabel("distance (filter lengths)" if across < 3 else "distance")
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
        value, low, high = (float(there.iloc[0][part] - base.iloc[0]) for part in PARTS)
        return Estimate(value, low, high)

    def shows(self) -> str:
        return super().shows().replace("intervals", "bands")

    def numbers(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "model": name,
                "distance": f"{row['x']:g}",
                "median loss (10 to 90 %)": spanned(loss) if loss.known else "not finite",
            }
            for name in self.names
            for row in along(self.rows, name).to_dict("records")
            for loss in [Estimate(row["value"], row["low"], row["high"])]
        )
