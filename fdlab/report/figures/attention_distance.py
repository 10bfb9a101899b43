"""How far every head looks, block by block: the paper's own figure, a panel a model and a dot a head."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Lines
from fdlab.report.figures.heads import OfHeads
from fdlab.report.figures.layout import REFERENCE_LINE
from fdlab.report.numbers import plain, show
from fdlab.report.report import Report, estimate_at
from fdlab.report.style import FAINT, PAPER, block_ticks


class AttentionDistance(OfHeads):
    """One scale for all panels unless their grids differ much."""

    metrics = ("distance", "distance_spread")
    probe, metric, late = "attention", "distance", True
    label, band = "distance (px)", 1.55

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.spread = report.has(self.probe, "distance_spread")
        self.headline = "distance_spread" if self.spread else "distance"

    def draw(self) -> Drawing:
        lines = [max(self.report.facts.uniform_by_block_px.get(n, [self.report.uniform_px(n)])) for n in self.shown]
        lines = [line for line in lines if math.isfinite(line)]
        together = not lines or max(lines) < 1.6 * min(lines)
        figure, across, grid = self.grid(sharey=together)
        for axes, name in self.panels(grid):
            self._panel(axes, name)
        for axes in grid.flat[:1] if together else grid.flat[: len(self.shown)]:
            axes.margins(y=0.08)
            axes.autoscale(axis="y")
            # From 0, as the paper's: a zoomed axis makes the rounding of uniform attention look like structure.
            axes.set_ylim(0, axes.get_ylim()[1])
        self.legend(figure, across, uniform=bool(lines), controls=self.any_control)
        return figure

    def _panel(self, axes: Axes, name: str) -> None:
        control = self.control(name)
        if control is not None:
            grey = self.of(control)
            axes.plot(grey["block"] + 1, grey["value"], "o", color=FAINT, ms=2.6, mew=0)
        heads, look = self.of(name), self.looks[name]
        # A thin edge in the page's colour keeps neighbouring dots apart; hollow ones have their own.
        edge = (
            {"mfc": look.color, "mec": PAPER, "mew": 0.3 if look.marker != "P" else 0}
            if look.fill
            else {"mfc": "none", "mew": 0.6}
        )
        axes.plot(heads["block"] + 1, heads["value"], look.marker, color=look.color, ms=3.2, **edge)
        self.mean_line(axes, self.report.by_block("distance", name))
        stages, uniform = self.report.uniform_by_block(name), self.report.uniform_px(name)
        if stages:  # windows: each stage has its own line
            axes.step(range(1, len(stages) + 1), stages, where="mid", **REFERENCE_LINE, zorder=1)
        elif math.isfinite(uniform):
            axes.axhline(uniform, **REFERENCE_LINE, zorder=1)
        block_ticks(axes, int(heads["block"].max()) + 1)

    def terms(self) -> dict[str, object]:
        # Attention in windows has a uniform line that differs by stage.
        return super().terms() | {"windowed": any(self.report.uniform_by_block(name) for name in self.shown)}

    def lines(self) -> Lines:
        for name in self.names:
            spread = self.report.by_block("distance_spread", name)
            for index, heads in self.of(name).groupby("block"):
                block = int(str(index)) + 1
                known = block in set(spread["block"])
                yield {
                    "model": name,
                    "block": str(block),
                    "heads, mean (px)": plain(heads["value"].mean()),
                    "smallest": plain(heads["value"].min()),
                    "largest": plain(heads["value"].max()),
                    "spread (95 %)": _spread(spread, block, heads["head"].nunique()) if known else "–",
                    "uniform": plain(self.report.uniform_in(name, block)),
                }


def _spread(rows: pd.DataFrame, block: int, heads: int) -> str:
    """A block's spread with its interval, or why it has none."""
    value = estimate_at(rows, block)
    return show(value, "distance_spread") if value.known or heads > 1 else "undefined: one head a block"
