"""How much of the teacher a model's tokens hold, beyond what position alone gives; and what the loss says."""

from __future__ import annotations

import math
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.report.captions import caution, listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import row_a_model
from fdlab.report.numbers import show
from fdlab.report.style import INK, WIDE, bars, new_figure, number_above


class Teacher(Figure):
    """A row a model: teacher_r2 with its interval; where known, the distillation loss beside it."""

    metrics = ("teacher_r2",)
    probe, metric = "features", "teacher_r2"

    def draw(self) -> Drawing:
        losses = {name: float(loss) for name, loss in self.report.facts.distil_loss.items() if name in self.names}
        figure = new_figure(WIDE, 0.6 + 0.29 * max(len(self.names), 2))
        widths = [2, 1] if losses else [1]
        grid = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
        for row, name in enumerate(self.names):
            value, style = self.value(name), self.looks[name].points(5)
            if value.known:
                _dot(grid[0], value.value, row, f"{value.value:.2f}", xerr=bars(value), **style)
            if name in losses:
                _dot(grid[1], losses[name], row, f"{losses[name]:.3g}", **style)
        row_a_model(grid, self.names)
        grid[0].set_xlim(min(0.0, grid[0].get_xlim()[0]), 1.04)
        grid[0].set_xlabel(f"teacher_r2, 95 % over {self.term('over')}")
        if losses:
            self._losses(grid[1])
        return figure

    def _losses(self, axes: Axes) -> None:
        """The loss axis from 0, so that lengths can be compared, with the line of the position mean."""
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=3)
        axes.set_xlabel("distillation loss")
        line = self.report.facts.position_only_loss
        if line is not None and math.isfinite(line):
            axes.axvline(line, color=INK, lw=0.8, ls=(0, (4, 2.5)))
            axes.set_xlim(0, 1.35 * max(line, axes.get_xlim()[1] / 1.35))
            axes.annotate(
                "position\nmean only", (line, 0.02), (-3, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="right", va="bottom", fontsize=6,
            )  # fmt: skip

    @cached_property
    def pair(self) -> tuple[str, str] | None:
        """The first distilled model and the untrained control of its design."""
        trained = self.report.trained(self.names)
        name = next((name for name in trained if self.report.families.get(name) == "distilled"), trained[0])
        other = self.report.control_of(name, self.names) or next((n for n in self.names if n != name), None)
        return (name, other) if other else None

    def shows(self) -> str:
        losses = self.say("losses") if self.term("lost") else ""
        return f"{super().shows().rstrip('.')}{losses}."

    def caution(self) -> str:
        return caution(self.report, self.say("not_said"), self.names[:1], self.rows)

    def terms(self) -> dict[str, object]:
        losses = self.facts.distil_loss
        untrained = [self.value(name).value for name in self.names if self.report.untrained(name)]
        return {
            "lost": bool(losses) and self.facts.position_only_loss is not None,  # the line of the position mean
            "ended": listed([f"{loss:.3g} in {name}" for name, loss in losses.items()]),
            "large": max(untrained, default=0.0) >= 0.3,
        }

    def lines(self) -> Lines:
        for name in self.names:
            value, loss = self.value(name), self.facts.distil_loss.get(name)
            line = {"model": name, "teacher_r2 (95 %)": show(value, self.metric), "images": str(value.n or "–")}
            yield line | {"distillation loss": "–" if loss is None else f"{loss:.3g}"}


def _dot(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    axes.errorbar([x], [y], ls="", elinewidth=1.0, **style)  # type: ignore[arg-type]
    number_above(axes, text, x, y)
