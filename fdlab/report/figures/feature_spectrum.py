"""Over how many directions the images' features spread: the falling singular values of the last block."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.numbers import plain, show
from fdlab.report.report import along, estimate
from fdlab.report.style import COLUMN, new_figure, wrap

FLOOR = 1e-7  # shares below are rounding


class FeatureSpectrum(Figure):
    """A line a model on logarithmic axes, its interval as a band."""

    metrics = ("singular_value", "effective_rank")
    probe, metric, headline = "features", "singular_value", "effective_rank"

    def last(self, name: str, metric: str | None = None) -> pd.DataFrame:
        """The rows of a model's last block."""
        found = self.of(name, metric)
        return found[found["block"] == found["block"].max()]

    def value(self, name: str) -> Estimate:
        return estimate(self.last(name, self.headline))

    def draw(self) -> Drawing:
        figure = new_figure(COLUMN, 2.0 + 0.14 * len(self.names))
        axes = figure.subplots()
        for name in self.names:
            data, look = along(self.last(name), name), self.looks[name]
            data = data[data["value"] > FLOOR]
            low = data["low"].clip(lower=FLOOR)
            axes.fill_between(data["x"], low, data["high"], color=look.color, alpha=0.2, lw=0)
            axes.plot(data["x"], data["value"], color=look.color, ls=look.line, label=wrap(name, 34, 1))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(FLOOR, axes.get_ylim()[0]))
        axes.set_xlabel("singular value, largest first")
        axes.set_ylabel("share of their sum")
        figure.legend(loc="outside upper left", ncols=1)
        return figure

    def lines(self) -> Lines:
        for name in self.names:
            shares = self.last(name).groupby("x")["value"].mean()
            line = {"model": name, "effective rank (95 %)": show(self.value(name), "effective_rank")}
            for number in (1, 2, 10):
                line[f"share of value {number}"] = plain(shares[number], ".3g") if number in shares.index else "–"
            yield line
