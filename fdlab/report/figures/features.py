"""What the tokens of every block are like: rank, frequency, likeness, alignment and uniformity over depth."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.report.captions import listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import filled, label_outer, legend_of_models, line_over_depth
from fdlab.report.report import Report
from fdlab.report.style import WIDE, new_figure

LABELS = {
    "effective_rank": "effective rank",
    "high_frequency": "ln highest freq. / mean",
    "token_similarity": "cosine of tokens",
    "alignment": "alignment (0: same)",
    "uniformity": "uniformity (low: even)",
}
WORDS = {
    "effective_rank": "effective rank",
    "high_frequency": "log amplitude of the highest spatial frequency against the mean",
    "token_similarity": "cosine between the tokens of an image",
    "alignment": "squared distance between two views",
    "uniformity": "uniformity",
}
ACROSS = 3


class Features(Figure):
    """A panel a measure, a line a model, untrained models in grey."""

    metrics = tuple(LABELS)
    probe, late = "features", True

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.known = [m for m in LABELS if report.rows(self.probe, m)["value"].notna().any()]
        self.metric = (self.known or list(LABELS))[0]

    @property
    def present(self) -> bool:
        return bool(self.known)

    @cached_property
    def rows(self) -> pd.DataFrame:
        return self.report.rows(self.probe)

    @cached_property
    def names(self) -> list[str]:
        return self.report.ordered(self.rows[self.rows["metric"].isin(self.metrics)]["model"])

    def draw(self) -> Drawing:
        down, across = -(-len(self.known) // ACROSS), min(len(self.known), ACROSS)
        beside = down * across > len(self.known)  # an empty panel holds the legend
        figure = new_figure(WIDE, 0.35 + 1.35 * down + (0.0 if beside else 0.15 * len(self.names)))
        grid = figure.subplots(down, across, squeeze=False, sharex=True)
        for number, axes, metric in filled(grid, self.known):
            for name in self.names:
                data = self.report.by_block(metric, name, self.probe)
                line_over_depth(axes, data, self.looks[name], behind=self.report.untrained(name))
            axes.set_title(LABELS[metric], loc="left")
            axes.set_xlim(0, 1.07)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            label_outer(axes, number, grid, len(self.known), "relative depth")
        legend = legend_of_models(self.names, self.looks)
        if beside:
            grid.flat[-1].legend(*legend, loc="center left", fontsize=6.5, borderaxespad=0)
        else:
            figure.legend(*legend, loc="outside upper left", ncols=2)
        return figure

    def terms(self) -> dict[str, object]:
        quantities = listed([WORDS[metric] for metric in self.known]).capitalize()
        return {"quantities": quantities, "first": WORDS[self.metric], "ranked": "effective_rank" in self.known}

    def lines(self) -> Lines:
        return self.lines_by_block({metric: LABELS[metric] for metric in self.known})
