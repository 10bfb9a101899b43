"""Park & Kim's picture: the largest eigenvalues of every minibatch, pooled."""

from __future__ import annotations

from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure, Lines
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

    def terms(self) -> dict[str, object]:
        # Images of a minibatch, and how many minibatches were measured.
        return {"size": int(self.rows["n"].dropna().iloc[0]), "batches": int(self.rows["x"].max()) + 1}

    def lines(self) -> Lines:
        for name in self.names:
            values, mean = self.of(name)["value"], show(self.value(name), "max_eigenvalue")
            line = {"model": name, "values": str(len(values)), "mean of the largest": mean}
            yield line | {"median of all": plain(values.median(), ".3g")}
