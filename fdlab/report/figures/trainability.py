"""Accuracy against the learning rate of fine-tuning, a band a model; and curvature along the way where measured."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.records.metrics.names import OF_FINETUNING
from fdlab.report.captions import listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.numbers import plain, spanned
from fdlab.report.report import estimate
from fdlab.report.style import COLUMN, INK, WIDE, Look, new_figure, wrap

TOGETHER = 6  # more models than these get a panel each, the others behind it in grey
COLUMNS = 5
CURVATURE = "eigenvalue_1_balanced"


class Trainability(Figure):
    """One panel for all models where they are few, else small multiples; a second panel with the curvature."""

    metrics = ("best_accuracy", "lr_width", "steps_to_loss", "diverged")
    probe, metric, headline, written_as = "trainability", "accuracy", "best_accuracy", "accuracy"

    def means(self, name: str, metric: str = "accuracy") -> pd.DataFrame:
        """The means over seeds of one model, by x; the seeds' own rows where there is a single seed."""
        found = self.of(name, metric)
        joined = found[found["seed"].isna()]
        return (joined if len(joined) else found).sort_values("x")

    def single(self, name: str, metric: str) -> Estimate:
        """A model's number of one metric over its seeds."""
        return estimate(self.means(name, metric))

    def value(self, name: str) -> Estimate:
        return self.single(name, self.headline)

    def draw(self) -> Drawing:
        if len(self.names) > TOGETHER:
            return self._multiples()
        curved = [name for name in self.names if not self.means(name, CURVATURE).empty]
        figure = new_figure(WIDE if curved else COLUMN, 2.5)
        grid = figure.subplots(1, 2 if curved else 1, squeeze=False)[0]
        for name in self.names:
            _band(grid[0], self.means(name), self.looks[name], scale=100, label=wrap(name, 24, 2))
        _rates(grid[0])
        grid[0].set_ylabel("test accuracy (%)")
        for name in curved:
            _band(grid[1], self.means(name, CURVATURE), self.looks[name])
        if curved:
            grid[1].set_yscale("log")
            grid[1].set_xlabel("step of fine-tuning at the best rate")
            grid[1].set_ylabel("balanced largest eigenvalue")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2 if curved else 1)
        return figure

    def _multiples(self) -> Drawing:
        names = self.names
        lines = -(-len(names) // COLUMNS)
        figure = new_figure(WIDE, 0.5 + 1.25 * lines)
        grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True, sharey=True)
        for number, axes in enumerate(grid.flat):
            if number >= len(names):
                axes.set_visible(False)
                continue
            for other in names:
                mean = self.means(other)
                axes.plot(mean["x"], 100 * mean["value"], color=INK, alpha=0.13, lw=0.7)
            name, last = names[number], number + COLUMNS >= len(names)
            _band(axes, self.means(name), self.looks[name], scale=100)
            axes.set_title(wrap(name, 22, 2), fontsize=6.5)
            _rates(axes, label=last)
            if last:
                axes.tick_params(labelbottom=True)
        for row in grid:
            row[0].set_ylabel("accuracy (%)")
        return figure

    def shows(self) -> str:
        if self.pair is None:
            return super().shows()
        widths = listed([f"{plain(self.single(name, 'lr_width').value)} for {name}" for name in self.pair])
        return f"{super().shows().rstrip('.')}, and the good rates span {widths} decades."

    def terms(self) -> dict[str, object]:
        seeds = self.rows["seed"].dropna().nunique()
        alone = f" {OF_FINETUNING.removeprefix('seeds ')}" if OF_FINETUNING in set(self.rows["objective"]) else ""
        band = f"95 % t-intervals over {seeds} seeds{alone}" if seeds > 1 else "of the test images alone (one seed)"
        return {
            "rates": self.rows["x"].nunique(),
            "band": band,
            "curved": self.report.has(self.probe, CURVATURE),
            "multiples": len(self.names) > TOGETHER,
        }

    def lines(self) -> Lines:
        for name in self.names:
            diverged = self.of(name, "diverged").dropna(subset=["seed"])
            rates = self.of(name, "best_rate").dropna(subset=["seed", "value"]).sort_values("seed")["value"]
            yield {
                "model": name,
                "best accuracy % (95 %)": _text(self.value(name), 100, 1),
                "best rate, by seed": " / ".join(f"{rate:g}" for rate in rates) or "–",
                "lr_width, decades": _text(self.single(name, "lr_width"), 1, 2),
                "steps_to_loss": _text(self.single(name, "steps_to_loss"), 1, 0),
                "diverged": f"{diverged['value'].sum():.0f} of {len(diverged)}",
            }


def _rates(axes: Axes, label: bool = True) -> None:
    axes.set_xscale("log")
    axes.grid(axis="y")
    if label:
        axes.set_xlabel("learning rate")


def _band(axes: Axes, mean: pd.DataFrame, look: Look, scale: float = 1, label: str | None = None) -> None:
    x, value, low, high = (mean[name].to_numpy(float) for name in ("x", "value", "low", "high"))
    axes.plot(x, scale * value, ls=look.line, lw=1.2, label=label, **look.points(3.5))
    axes.fill_between(x, scale * low, scale * high, color=look.color, alpha=0.15, lw=0)


def _text(value: Estimate, scale: float, digits: int) -> str:
    scaled = Estimate(scale * value.value, scale * value.low, scale * value.high)
    return spanned(scaled, f".{digits}f") if value.known else "–"
