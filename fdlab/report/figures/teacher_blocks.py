"""How much of a teacher can be read out behind every block of a model."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import legend_of_models, line_over_depth
from fdlab.report.style import WIDE, new_figure


class TeacherBlocks(Figure):
    """A line a model over its blocks, untrained models in grey."""

    metrics = ("teacher_r2",)
    probe, metric, late = "features", "teacher_r2", True

    @cached_property
    def rows(self) -> pd.DataFrame:
        found = self.report.rows(self.probe, self.metric)
        return found[found["block"].notna() & found["value"].notna()]

    def draw(self) -> Drawing:
        figure = new_figure(WIDE, 1.7 + 0.15 * len(self.names))
        axes = figure.subplots()
        for name in self.names:
            data = self.report.by_block(self.metric, name, self.probe).dropna(subset=["value"])
            line_over_depth(axes, data, self.looks[name], behind=self.report.untrained(name))
        axes.set_xlim(0, 1.04)
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), min(1.02, 1.1 * high))
        axes.set_xlabel("relative depth")
        axes.set_ylabel("teacher_r2")
        figure.legend(*legend_of_models(self.names, self.looks), loc="outside upper left", ncols=2)
        return figure

    def lines(self) -> Lines:
        return self.lines_by_block({self.metric: "teacher_r2 (95 %)"})
