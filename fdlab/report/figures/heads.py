"""A panel a model and a dot a head, block by block: what the figures of single heads have in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fdlab.report.captions import counted
from fdlab.report.figures.figure import Figure
from fdlab.report.figures.layout import REFERENCE_LINE, bands, filled, label_outer
from fdlab.report.style import COLUMN, FAINT, INK, PAPER, WIDE, new_figure, wrap

ACROSS = 4


class OfHeads(Figure):
    """Panels in rows of up to four."""

    label: str  # of the value axis
    scale: float = 1.0  # of the drawn values
    band: float  # height of a row of panels in inches

    @cached_property
    def shown(self) -> list[str]:
        """The trained models; untrained controls stand behind them, or alone where no model claims them."""
        trained = self.report.trained(self.names)
        behind = {self.report.control_of(name, self.names) for name in trained}
        return trained + [name for name in self.names if name not in trained and name not in behind]

    def terms(self) -> dict[str, object]:
        return {"panels_shown": counted(len(self.shown), "model")}

    def control(self, name: str) -> str | None:
        """The untrained control behind a panel."""
        return self.report.control_of(name, self.names)

    def grid(self, **shared: Any) -> tuple[Drawing, int, Any]:
        """The figure, how many panels stand side by side, and all axes."""
        down, across = bands(len(self.shown), ACROSS)
        height = 0.45 + self.band * down + (0.3 if across == 1 else 0)
        figure = new_figure(COLUMN if across == 1 else WIDE, height)
        return figure, across, figure.subplots(down, across, squeeze=False, **shared)

    def panels(self, grid: Any) -> Iterator[tuple[Axes, str]]:
        """The axes and the model of every panel, titled and labelled after they are drawn."""
        for number, axes, name in filled(grid, self.shown):
            yield axes, name
            axes.set_title(wrap(name, 20, 2), loc="left")
            label_outer(axes, number, grid, len(self.shown), "block", self.label)

    def mean_line(self, axes: Axes, mean: pd.DataFrame) -> None:
        """The mean over heads; a light edge keeps the line readable over dark dots."""
        axes.plot(
            mean["block"], self.scale * mean["value"], color=INK, lw=1.0, ms=10,
            marker="_" if len(mean) == 1 else "",  # a line needs two blocks
            path_effects=[withStroke(linewidth=2.2, foreground=PAPER)],
        )  # fmt: skip

    def legend(self, figure: Drawing, across: int, *, uniform: bool, controls: bool) -> None:
        """The legend of dots and lines above the panels."""
        handles = [
            Line2D([], [], ls="", marker="o", ms=3.4, color=INK, mfc="none", mew=0.8, label="a head"),
            Line2D([], [], color=INK, lw=1.0, label="mean over heads"),
        ]
        if uniform:
            handles.append(Line2D([], [], **REFERENCE_LINE, label="uniform attention"))
        if controls:
            style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3.2, "mew": 0, "color": FAINT}
            handles.append(Line2D([], [], **style, label="untrained, same design"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 2)
