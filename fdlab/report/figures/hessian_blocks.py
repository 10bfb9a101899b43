"""Curvature block by block: where in a model the loss is sharp."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.numbers import show
from fdlab.report.report import estimate
from fdlab.report.style import WIDE, bars, new_figure, wrap

SHOWN = {"eigenvalue_1": "largest eigenvalue", "trace": "trace"}


class HessianBlocks(Figure):
    """A panel a quantity, a group of bars a block, a bar a model; E is what comes before the blocks."""

    metrics = ("eigenvalue_1", "trace")
    probe, metric = "hessian", "eigenvalue_1"

    @cached_property
    def rows(self) -> pd.DataFrame:
        found = self.report.rows(self.probe, self.metric)
        return found[found["block"].notna()]

    @cached_property
    def blocks(self) -> list[int | None]:
        """The blocks from 0; None is the embedding before them."""
        first: list[int | None] = [None] if self.report.has(self.probe, "eigenvalue_1_embedding") else []
        return first + sorted(int(block) for block in self.rows["block"].unique())

    def at(self, name: str, metric: str, block: int | None) -> Estimate:
        """A quantity of one model in one block."""
        if block is None:
            return self.whole(f"{metric}_embedding", name)
        found = self.of(name, metric)
        return estimate(found[found["block"] == block])

    def draw(self) -> Drawing:
        figure = new_figure(WIDE, 2.1)
        grid = figure.subplots(1, len(SHOWN))
        width = 0.8 / len(self.names)
        for axes, (metric, label) in zip(grid, SHOWN.items(), strict=True):
            for number, name in enumerate(self.names):
                at = [block + (number - (len(self.names) - 1) / 2) * width for block in range(len(self.blocks))]
                data = pd.DataFrame([self.at(name, metric, block) for block in self.blocks])
                look = self.looks[name]
                axes.bar(
                    at, data["value"], width * 0.92, yerr=bars(data), color=look.color if look.fill else "none",
                    edgecolor=look.color, lw=0.7, error_kw={"elinewidth": 0.6}, label=wrap(name, 22, 2),
                )  # fmt: skip
            axes.set_xticks(range(len(self.blocks)), ["E" if b is None else str(b + 1) for b in self.blocks])
            axes.set_xlabel("block")
            axes.set_ylabel(label)
            axes.set_yscale("log")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(self.names), 3))
        return figure

    def terms(self) -> dict[str, object]:
        peaks = []  # of each model the block of the largest eigenvalue
        for name in self.names:
            values = {block: self.at(name, self.metric, block).value for block in self.blocks if block is not None}
            known = {block: value for block, value in values.items() if value == value}
            if known:
                peak = max(known, key=lambda block: known[block])
                peaks.append(f"block {peak + 1} in {name} ({known[peak]:.3g})")
        return {"peaks": "; ".join(peaks)}

    def lines(self) -> Lines:
        for name in self.names:
            for block in self.blocks:
                line = {"model": name, "block": "embedding" if block is None else str(block + 1)}
                yield line | {label: show(self.at(name, metric, block), metric) for metric, label in SHOWN.items()}
