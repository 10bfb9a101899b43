"""Park & Kim's picture: the largest eigenvalues of every minibatch, pooled."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure
from fdlab.report.numbers import plain, show
from fdlab.report.style import COLUMN, new_figure, wrap


class MaxEigenvalues(Figure):
    """A cumulative line a model on a logarithmic axis: no bins to choose."""

    metrics = ("max_eigenvalue",)
    probe, metric, headline = "hessian", "max_eigenvalue", "max_eigenvalue_mean"

    def draw(self) -> Drawing:
        import seaborn as sns

        figure = new_figure(COLUMN, 2.0 + 0.14 * len(self.names))
        axes = figure.subplots()
        for name in self.names:
            look = self.looks[name]
            sns.ecdfplot(self.of(name)["value"], color=look.color, ls=look.line, label=wrap(name, 30, 1), ax=axes)
        if self.rows["value"].min() > 0:
            axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("eigenvalue of a minibatch's Hessian")
        axes.set_ylabel("share at or below")
        figure.legend(loc="outside upper left", ncols=1)
        return figure

    @property
    def size(self) -> int:
        """Images of a minibatch."""
        return int(self.rows["n"].dropna().iloc[0])

    @property
    def batches(self) -> int:
        """How many minibatches were measured."""
        return int(self.rows["x"].max()) + 1

    def numbers(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "model": name,
                "values": str(len(self.of(name))),
                "mean of the largest": show(self.value(name), "max_eigenvalue"),
                "median of all": plain(self.of(name)["value"].median(), ".3g"),
            }
            for name in self.names
        )
