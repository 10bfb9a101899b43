"""How much the loss rises around the weights: a panel a measure, a row a model, with intervals."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from fdlab.records.metrics.names import MAPS
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import row_a_model
from fdlab.report.numbers import show
from fdlab.report.report import Report
from fdlab.report.style import COLUMN, WIDE, bars, new_figure

SHOWN = {
    "noise_to_rise": "noise to a rise of 0.1",
    "sharpness_adaptive": "adaptive, average",
    "sharpness_adaptive_worst": "adaptive, worst",
    "sharpness_average": "plain, average",
    "sharpness_worst": "plain, worst",
}


class Sharpness(Figure):
    """Panels with scales of their own: the measures have different radii and are not comparable with each other."""

    metrics = tuple(SHOWN)
    probe = "sharpness"

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.shown = [metric for metric in SHOWN if report.has(self.probe, metric)]
        self.metric = (self.shown or list(SHOWN))[0]

    @cached_property
    def names(self) -> list[str]:
        return self.report.measured(self.probe)

    def draw(self) -> Drawing:
        width = COLUMN if len(self.shown) < 3 else WIDE
        figure = new_figure(width, 0.6 + 0.27 * max(len(self.names), 2))
        grid = figure.subplots(1, len(self.shown), squeeze=False, sharey=True)[0]
        for axes, metric in zip(grid, self.shown, strict=True):
            for row, name in enumerate(self.names):
                value = self.whole(metric, name)
                if value.known:
                    style = self.looks[name].points(4.5)
                    axes.errorbar([value.value], [row], xerr=bars(value), ls="", elinewidth=1.0, **style)
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.set_xlabel(SHOWN[metric].replace(", ", ",\n").replace("to a rise", "to a\nrise"))
        row_a_model(grid, self.names, 22)
        return figure

    def terms(self) -> dict[str, object]:
        noise = self.metric == "noise_to_rise"  # of which flatter models have more, of the others less
        return {
            "first": SHOWN[self.metric],
            "noise": noise,
            "others": noise and len(self.shown) > 1,
            "moves": self._moves(),
        }

    def _moves(self) -> str:
        """How far each measure moves in this report's own control; without one, which maps move which measures."""
        moved = []
        for metric in self.shown:
            rows = self.report.rows(self.probe, f"moved_{metric}")
            rows = rows[rows["value"] > 0]
            if len(rows):
                far = rows.iloc[int(np.argmax(np.abs(np.log(rows["value"].to_numpy(float)))))]
                moved.append(f"{SHOWN[metric]} to {far['value']:.2g} times, {list(MAPS.values())[int(far['x']) - 1]}")
        if moved:
            return f"in the control here, {'; '.join(moved)}"
        return "the plain ones under scalings of layers, the adaptive ones under a matrix inside a head"

    def lines(self) -> Lines:
        for name in self.names:
            yield {"model": name} | {SHOWN[metric]: show(self.whole(metric, name), metric) for metric in self.shown}
