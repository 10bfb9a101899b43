"""The largest eigenvalue and the trace, raw and balanced: what of a difference survives a change of scales."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fdlab.records.estimate import Estimate
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import log_ticks, row_a_model
from fdlab.report.numbers import show
from fdlab.report.style import COLUMN, INK, WIDE, Look, new_figure

SHOWN = {"eigenvalue_1": "largest eigenvalue", "trace": "trace"}


class Eigenvalues(Figure):
    """A row a model; filled markers are raw, crosses balanced; a logarithmic axis where all are positive."""

    metrics = ("eigenvalue_1", "eigenvalue_lowest", "trace")
    probe, metric = "hessian", "eigenvalue_1"

    @cached_property
    def rows(self) -> pd.DataFrame:
        found = self.report.rows(self.probe, self.metric)
        return found[found["block"].isna()]

    def balanced(self, metric: str) -> bool:
        """Whether some model has the quantity in its balanced form."""
        return any(self.whole(f"{metric}_balanced", name).known for name in self.names)

    def draw(self) -> Drawing:
        metrics = [metric for metric in SHOWN if any(self.whole(metric, name).known for name in self.names)]
        balanced = any(self.balanced(metric) for metric in metrics)
        figure = new_figure(WIDE if len(metrics) > 1 else COLUMN, 0.75 + 0.32 * len(self.names))
        grid = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        for axes, metric in zip(grid, metrics, strict=True):
            for row, name in enumerate(self.names):
                look = self.looks[name]
                cross = {"marker": "x", "color": look.color, "markersize": 4.5}
                _point(axes, self.whole(metric, name), row - 0.12 * balanced, look, look.points(4.5))
                _point(axes, self.whole(f"{metric}_balanced", name), row + 0.16, look, cross)
            if np.nanmin([self.whole(metric, name).value for name in self.names]) > 0:
                axes.set_xscale("log")
                log_ticks(axes.xaxis, (1, 3), 6)
            axes.set_xlabel(SHOWN[metric])
        row_a_model(grid, self.names, 24)
        if balanced:
            marks = [("o", "as it is"), ("x", "balanced form")]
            handles = [Line2D([], [], ls="", marker=mark, color=INK, markersize=4, label=text) for mark, text in marks]
            figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return figure

    def shows(self) -> str:
        sentence = super().shows()
        even = [self.whole("eigenvalue_1_balanced", name) for name in self.pair or ()]
        if even and all(value.known for value in even):
            first, second = (show(value, self.metric) for value in even)
            return f"{sentence[:-1]}; balanced, it is {first} and {second}."
        return sentence

    def terms(self) -> dict[str, object]:
        return {"crossed": self.balanced(self.metric)}

    def lines(self) -> Lines:
        for name in self.names:
            line = {"model": name}
            for metric in (*SHOWN, "eigenvalue_lowest"):
                line[metric] = show(self.whole(metric, name), metric)
                line[f"{metric}, balanced"] = show(self.whole(f"{metric}_balanced", name), metric)
            yield line


def _point(axes: Axes, value: Estimate, y: float, look: Look, style: dict[str, Any]) -> None:
    if not value.known:
        return
    axes.plot([value.value], [y], ls="", **style)
    if value.bounded:
        low = max(value.low, value.value / 100) if value.value > 0 else value.low  # a bar that leaves a log axis
        axes.plot([low, value.high], [y, y], color=look.color, lw=0.9)
