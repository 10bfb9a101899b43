"""Accuracy after fine-tuning, with the training loss beside it: equal accuracies at unequal losses differ."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.report.captions import several_seeds
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import row_a_model
from fdlab.report.numbers import show
from fdlab.report.report import estimate
from fdlab.report.style import WIDE, bars, new_figure, number_above


class Finetune(Figure):
    """A row a model; one point a run (seed) with its binomial interval."""

    metrics = ("accuracy", "final_loss")
    probe, metric = "training", "accuracy"

    def draw(self) -> Drawing:
        loss = self.report.has(self.probe, "final_loss")
        figure = new_figure(WIDE, 0.55 + 0.29 * len(self.names))
        widths = [3, 1] if loss else [1]
        grid = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        for row, name in enumerate(self.names):
            self._points(grid[0], "accuracy", name, row, 100, "{:.1f}")
            if loss:
                self._points(grid[1], "final_loss", name, row, 1, "{:.2f}")
        row_a_model(grid, self.names)
        grid[0].set_xlabel("test accuracy (%), 95 % binomial")
        if loss:
            grid[1].set_xlabel("final training loss")
            grid[1].margins(x=0.25)
        return figure

    def _points(self, axes: Axes, metric: str, name: str, row: int, scale: float, form: str) -> None:
        """The runs of one model in one panel, several seeds one under the other; a single one with its number."""
        runs = self.of(name, metric).dropna(subset=["value"])
        for number, (_, run) in enumerate(runs.iterrows()):
            y = row + (number - (len(runs) - 1) / 2) * 0.5 / max(len(runs), 1)
            value = float(run["value"]) * scale
            axes.errorbar([value], [y], xerr=bars(run) * scale, ls="", elinewidth=1.0, **self.looks[name].points(5))
            if len(runs) == 1:
                number_above(axes, form.format(value), value, y)

    def terms(self) -> dict[str, object]:
        splits, counts = self.report.facts.splits, self.rows["n"].dropna()
        return {
            "several": several_seeds(self.rows),
            "labelled": splits.get("labelled") or 0,
            "tested": splits.get("test") or (int(counts.max()) if len(counts) else 0),  # images, 0 where unknown
        }

    def lines(self) -> Lines:
        training = self.report.rows(self.probe)
        several = several_seeds(training)
        for name in self.names:
            for seed, run in training[training["model"] == name].groupby("seed", dropna=False):
                run = run[run["block"].isna()]
                accuracy, loss, rate = (
                    estimate(run[run["metric"] == metric]) for metric in ("accuracy", "final_loss", "learning_rate")
                )
                line = {"model": name, "seed": str(seed)} if several else {"model": name}
                line["accuracy % (95 %)"] = show(accuracy, "accuracy")
                line["test images"] = str(accuracy.n or "–")
                line["final training loss"] = show(loss, "final_loss")
                line["learning rate"] = f"{rate.value:.2g}" if rate.known else "–"
                yield line
