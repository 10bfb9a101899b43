"""Where heads look on average over the images: small maps, models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.captions import listed, pair
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import SHADES, matrix_of, shade_bar
from fdlab.report.numbers import plain, show
from fdlab.report.report import Report, estimate
from fdlab.report.style import COLUMN, WIDE, new_figure, wrap

MOST = 3  # models side by side: above, maps are too small to see stripes
EDGES = (0, 1 / 4, 1 / 2, 4 / 5, 5 / 4, 2, 4, 8, 64)  # times uniform; what lies above the last is drawn like it


def chosen(report: Report, names: list[str], most: int) -> list[str]:
    """At most ``most`` models: the compared pair, an untrained control, then the others, in their order."""
    trained = report.trained(names)
    controls = [name for name in names if name not in trained][:1]
    kept = list(dict.fromkeys([*(pair(report, names) or ()), *controls, *names]))[:most]
    return [name for name in names if name in kept]


class Maps(Figure):
    """A column a model and head, a row a block: what averaged maps and learnt biases have in common."""

    probe, fewer = "attention_maps", True

    @cached_property
    def measured(self) -> list[str]:
        """All models that have such maps."""
        return self.report.ordered(self.report.rows(self.probe, self.metric)["model"])

    @cached_property
    def names(self) -> list[str]:
        return chosen(self.report, self.measured, MOST)

    @cached_property
    def rows(self) -> pd.DataFrame:
        found = self.report.rows(self.probe, self.metric)
        return found[found["model"].isin(self.names)]

    def heads(self) -> Iterator[tuple[str, int, int]]:
        """(model, block, head) of every map."""
        for name in self.names:
            yield from ((name, block, head) for block, heads in self.panels(name) for head in heads)

    def panels(self, name: str) -> list[tuple[int, list[int]]]:
        """(block, heads as the probe chose them: smallest distance first) of one model, from the first block."""
        found = self.of(name)[["block", "head"]].drop_duplicates()
        return [(int(str(block)), [int(head) for head in part["head"]]) for block, part in found.groupby("block")]

    def matrix(self, name: str, block: int, head: int) -> np.ndarray:
        """(y, x) of one head."""
        found = self.of(name)
        return matrix_of(found[(found["block"] == block) & (found["head"] == head)], "y", "x")

    def terms(self) -> dict[str, object]:
        # Which blocks the probe chose: of all that were asked for, the first, the middle and the last.
        count = self.rows["block"].nunique()
        places = ["first", "middle", "last"][:count] if count != 2 else ["first", "last"]
        return {"blocks": f"the {listed(places)} block"}

    def small_multiples(self, norm: BoundaryNorm, most: float) -> tuple[Drawing, Any, Any]:
        """The figure, the last picture drawn (for a bar of its shades) and all axes."""
        places = {name: self.panels(name) for name in self.names}
        heads = max(len(shown) for blocks in places.values() for _, shown in blocks)
        down = max(len(blocks) for blocks in places.values())
        across = heads * len(self.names)
        width = COLUMN if across < 3 else WIDE
        side = min((width - 1.0) / across, 1.25)
        figure = new_figure(width, 0.3 + down * (side + (0.27 if across > 4 else 0.17)))
        grid = figure.subplots(down, across, squeeze=False)
        drawn: Any = None
        for number, name in enumerate(self.names):
            for row, column in np.ndindex(down, heads):
                axes: Axes = grid[row, number * heads + column]
                block, shown = places[name][row] if row < len(places[name]) else (0, [])
                if column >= len(shown):
                    axes.set_axis_off()
                    continue
                values = np.ma.masked_invalid(self.matrix(name, block, shown[column]))
                values = np.clip(values, -most, most * (1 - 1e-9))
                drawn = axes.imshow(values, cmap=SHADES, norm=norm, interpolation="none")
                _without_frame(axes, f"block {block + 1}{chr(10) if across > 4 else ', '}head {shown[column] + 1}")
            grid[0, number * heads].set_title(wrap(name, 13 * heads, 2), loc="left")  # over all columns of the model
        return figure, drawn, grid


def _without_frame(axes: Axes, label: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(label, fontsize=6, labelpad=1.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


class AveragedMaps(Maps):
    """Maps in multiples of uniform attention."""

    metrics = ("attention_map", "r2_relative_of_mean", "r2_absolute_of_mean", "entropy_of_mean", "nmi_of_mean")
    metric, written_as = "attention_map", "r2_relative"

    def draw(self) -> Drawing:
        figure, drawn, grid = self.small_multiples(BoundaryNorm(EDGES, SHADES.N), EDGES[-1])
        words = ["0", "1/4", "1/2", "4/5", "5/4", "2", "4", "8", "more"]
        shade_bar(figure, drawn, grid, "attention / uniform", EDGES, words)
        return figure

    def value(self, name: str) -> Estimate:
        found = self.of(name, "r2_relative_of_mean")
        return estimate(found[found["block"] == found["block"].max()])

    def terms(self) -> dict[str, object]:
        return super().terms() | {"missing": [name for name in self.measured if name not in self.names]}

    def lines(self) -> Lines:
        for name, block, head in self.heads():
            line = {"model": name, "block": str(block + 1), "head": str(head + 1)}
            for metric in self.metrics[1:]:
                found = self.of(name, metric)
                found = found[(found["block"] == block) & (found["head"] == head)]
                label = metric.removesuffix("_of_mean")
                line[label] = show(estimate(found), label)
            most = np.fmax.reduce(self.matrix(name, block, head), axis=None)
            yield line | {"largest / uniform": plain(most, ".3g")}
