"""Which blocks arrange the images alike: CKA within every model and between every two models."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.report.figures.averaged_maps import chosen
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import SHADES, matrix_of
from fdlab.report.numbers import show
from fdlab.report.report import estimate
from fdlab.report.style import COLUMN, SHADES_OF_BLUE, WIDE, new_figure, wrap

MOST = 4  # models side by side: above, panels of twelve blocks are too small to read
EDGES = (0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1)  # finer near 1, where most blocks lie; the same in every figure
NUMBERS_UP_TO = 4  # blocks: then the value stands in its cell
ON_DARK, ON_LIGHT = SHADES_OF_BLUE[-1], SHADES_OF_BLUE[0]  # as the shades, the same on light and dark pages


class Cka(Figure):
    """A triangle of matrices: models with themselves on the diagonal, with each other below it."""

    metrics = ("cka",)
    probe, metric = "features", "cka"

    @property
    def present(self) -> bool:
        """Whether some model is compared with itself: models of one block each have no such rows."""
        return bool((self.rows["reference"] == "").any())

    @cached_property
    def measured(self) -> list[str]:
        """All models that are compared with themselves."""
        return self.report.ordered(self.rows[self.rows["reference"] == ""]["model"])

    @cached_property
    def names(self) -> list[str]:
        return chosen(self.report, self.measured, MOST)

    def between(self, first: str, second: str) -> pd.DataFrame:
        """The rows of two models (``block`` of the first, ``x`` of the second), or of one with itself."""
        reference = "" if first == second else second
        return self.rows[(self.rows["model"] == first) & (self.rows["reference"] == reference)]

    def matrix(self, down: str, across: str) -> np.ndarray:
        """(blocks of ``down``, blocks of ``across``); of one model with its mirror image and ones on the diagonal."""
        found = self.between(down, across)
        if found.empty:
            turned = self.between(across, down)
            return matrix_of(turned, "x", "block") if len(turned) else np.full((1, 1), math.nan)
        if down != across:
            return matrix_of(found, "block", "x")
        size = int(found["x"].max()) + 1
        square = np.eye(size)
        for block, x, value in found.groupby(["block", "x"], as_index=False)["value"].mean().to_numpy(float):
            square[int(block), int(x)] = square[int(x), int(block)] = value
        return square

    def cell(self, first: str, second: str, block: int, x: int) -> Estimate:
        """One value with its interval, blocks from 0; unknown where the table has no such row."""
        for found, i, j in ((self.between(first, second), block, x), (self.between(second, first), x, block)):
            there = found[(found["block"] == i) & (found["x"] == j)]
            if len(there):
                return estimate(there)
        return UNKNOWN

    def last(self, name: str) -> int:
        """The last block of a model."""
        return len(self.matrix(name, name)) - 1

    def value(self, name: str) -> Estimate:
        """First with last block."""
        return self.cell(name, name, 0, self.last(name))

    def of_last(self, first: str, second: str) -> Estimate:
        """The last blocks of two models."""
        return self.cell(first, second, self.last(first), self.last(second))

    def draw(self) -> Drawing:
        names, count = self.names, len(self.names)
        width = COLUMN if count < 3 else WIDE
        side = min((width - 0.75) / count, 2.0)
        figure = new_figure(width, 0.55 + count * (side + 0.12))
        grid = figure.subplots(count, count, squeeze=False)
        drawn: Any = None
        for row, across in np.ndindex(count, count):
            axes: Any = grid[row, across]
            if across > row:
                axes.set_axis_off()
                continue
            drawn = _panel(axes, self.matrix(names[row], names[across]))
            if across == row:
                axes.set_title(wrap(names[across], 17 if count > 2 else 20, 2), loc="left")
            if across == 0:
                axes.set_ylabel(wrap(names[row], 17 if count > 2 else 22, 2))
            if row == count - 1:
                axes.set_xlabel("block")
        bar = figure.colorbar(drawn, ax=grid, label="CKA", shrink=0.7, aspect=30, ticks=EDGES, spacing="uniform")
        bar.ax.set_yticklabels([f"{edge:g}" for edge in EDGES])
        bar.ax.minorticks_off()
        return figure

    def shows(self) -> str:
        sentence = super().shows()
        between = self.of_last(*self.pair) if self.pair is not None else UNKNOWN
        if not between.known:
            return sentence
        return f"{sentence.rstrip('.')}; the last blocks of the two have {show(between, 'cka')}."

    def terms(self) -> dict[str, object]:
        return {"missing": len([n for n in self.report.measured(self.probe, self.metric) if n not in self.names])}

    def lines(self) -> Lines:
        """First with last block of each model, last with last block of every two, with intervals."""
        values = [(name, "first, last", self.value(name)) for name in self.names]
        for number, second in enumerate(self.names):
            for first in self.names[:number]:
                between = self.of_last(first, second)
                values += [(f"{first}, {second}", "last, last", between)] if between.known else []
        yield from ({"models": m, "blocks": blocks, "CKA (95 %)": show(v, "cka")} for m, blocks, v in values)


def _panel(axes: Axes, values: np.ndarray) -> Any:
    """A heatmap of (blocks, blocks); the value stands in its cell where there are few."""
    import seaborn as sns

    few = max(values.shape) <= NUMBERS_UP_TO
    texts = np.vectorize(lambda value: f"{value:.2f}".replace("-0.00", "0.00"))(values) if few else False
    norm, drawn = BoundaryNorm(EDGES, SHADES.N), np.clip(values, 0, 1 - 1e-9)
    style = {"cmap": SHADES, "norm": norm, "cbar": False, "square": True}
    sns.heatmap(drawn, annot=texts, fmt="", annot_kws={"fontsize": 6}, ax=axes, **style)
    for text, value in zip(axes.texts, values[np.isfinite(values)], strict=False):  # none where there are many
        text.set_color(ON_DARK if value > 0.8 else ON_LIGHT)
    down, across = values.shape
    axes.set_xticks([block - 0.5 for block in _ticks(across)], list(map(str, _ticks(across))), rotation=0)
    axes.set_yticks([block - 0.5 for block in _ticks(down)], list(map(str, _ticks(down))), rotation=0)
    axes.tick_params(length=0)
    return axes.collections[0]


def _ticks(blocks: int) -> list[int]:
    return list(range(1, blocks + 1)) if blocks <= 4 else sorted({1, (blocks + 1) // 2, blocks})
