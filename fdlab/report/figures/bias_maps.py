"""The learnt relative-position biases: what a head adds for a key at an offset, whatever the image."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure as Drawing

from fdlab.report.captions import listed
from fdlab.report.figures.averaged_maps import Maps
from fdlab.report.figures.figure import Lines
from fdlab.report.figures.layout import SHADES, shade_bar
from fdlab.report.numbers import plain
from fdlab.report.style import MARK


class BiasMaps(Maps):
    """Biases in logits around their mean; the query is in the middle."""

    metrics = ("relative_bias",)
    metric = "relative_bias"

    @property
    def edges(self) -> np.ndarray:
        """(9,) equal steps that hold all values, the same above and below 0."""
        values = np.abs(self.rows["value"].to_numpy(float))
        most = float(np.max(values[np.isfinite(values)], initial=1e-6))
        digits = 10.0 ** np.floor(np.log10(most))
        return np.linspace(-1, 1, 9) * float(np.ceil(most / digits * 2) / 2 * digits)

    def draw(self) -> Drawing:
        steps = self.edges
        figure, drawn, grid = self.small_multiples(BoundaryNorm(steps, SHADES.N), steps[-1])
        for axes in grid.flat:
            if axes.axison:
                down, across = axes.images[0].get_array().shape
                axes.plot([(across - 1) / 2], [(down - 1) / 2], "+", color=MARK, ms=4, mew=0.9)
        shade_bar(figure, drawn, grid, "bias (logit), mean 0", steps[::2], [f"{step:g}" for step in steps[::2]])
        return figure

    def reach(self, name: str, block: int, head: int) -> tuple[float, float]:
        """Largest less smallest bias, and the offset in patches of the largest."""
        values = self.matrix(name, block, head)
        if not np.isfinite(values).any():
            return math.nan, math.nan
        down, across = np.unravel_index(int(np.nanargmax(values)), values.shape)
        middle = (np.array(values.shape) - 1) / 2
        return float(np.nanmax(values) - np.nanmin(values)), float(np.hypot(down - middle[0], across - middle[1]))

    def _largest(self) -> str:
        """The largest difference in the last block of the compared models."""
        parts = []
        for name in self.pair or self.names[:1]:
            block, heads = self.panels(name)[-1]
            most = np.array([self.reach(name, block, head)[0] for head in heads]).max()
            parts.append(f"{plain(most, '.2g')} in {name}")
        return listed(parts)

    def terms(self) -> dict[str, object]:
        without = [name for name in self.report.measured(self.probe) if name not in self.measured]
        more = {"without": without, "several_without": len(without) > 1, "largest": self._largest()}
        return super().terms() | more

    def lines(self) -> Lines:
        for name, block, head in self.heads():
            width, distance = self.reach(name, block, head)
            line = {"model": name, "block": str(block + 1), "head": str(head + 1)}
            yield line | {"largest - smallest": plain(width, ".3g"), "patches to the largest": plain(distance, ".2g")}
