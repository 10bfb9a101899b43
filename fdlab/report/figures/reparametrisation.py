"""Other weights, the same function: which measures move, and how far."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fdlab.records.metrics.names import MAPS
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import REFERENCE_LINE, filled, label_outer, log_ticks
from fdlab.report.style import INK, WIDE, new_figure, wrap

SHOWN = {
    "eigenvalue_1": "largest eigenvalue",
    "eigenvalue_1_balanced": "largest, balanced",
    "sharpness_average": "plain, average",
    "sharpness_worst": "plain, worst",
    "sharpness_adaptive": "adaptive, average",
    "sharpness_adaptive_worst": "adaptive, worst",
    "noise_to_rise": "noise to a rise",
}
MARKS = (("o", INK), ("s", "none"), ("^", INK), ("D", "none"), ("X", INK))  # marker and its filling
NOTHING_STILL = "no measure stays within 1 % under every map"
ACROSS, MOST = 2, 4


class Reparametrisation(Figure):
    """A panel a model (four at most), a row a measure, a mark a map; 1 means that nothing moved."""

    metrics = tuple(f"moved_{name}" for name in SHOWN)
    probe, metric = "sharpness", "moved_eigenvalue_1"
    trainings = False

    def ratios(self, name: str, measure: str) -> pd.DataFrame:
        """The ratios of a measure to that of the untouched model, by map (``x``, from 1)."""
        found = self.of(name, f"moved_{measure}")
        return found[found["value"] > 0]

    def draw(self) -> Drawing:
        names = self.names[:MOST]
        down = math.ceil(len(names) / ACROSS)
        figure = new_figure(WIDE, 0.85 + 1.75 * down)
        grid = figure.subplots(down, min(len(names), ACROSS), squeeze=False, sharex=True, sharey=True)
        for number, axes, name in filled(grid, names):
            self._panel(axes, name)
            axes.set_title(wrap(name, 30, 1), loc="left")
            label_outer(axes, number, grid, len(names), "ratio to the untouched model")
        grid[0, 0].set_yticks(range(len(SHOWN)), list(SHOWN.values()), fontsize=7)
        grid[0, 0].set_ylim(len(SHOWN) - 0.4, -0.6)
        handles = [
            Line2D([], [], ls="", marker=mark, color=INK, mfc=fill, mew=0.7, ms=4.2, label=text)
            for (mark, fill), text in zip(MARKS, MAPS.values(), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        return figure

    def _panel(self, axes: Axes, name: str) -> None:
        for row, measure in enumerate(SHOWN):
            found = self.ratios(name, measure)
            for x, value in zip(found["x"], found["value"], strict=True):
                mark, fill = MARKS[int(x) - 1]
                y = row + 0.13 * (int(x) - 3)
                axes.plot([value], [y], ls="", marker=mark, color=INK, mfc=fill, ms=3.6, mew=0.7)
        axes.axvline(1, **REFERENCE_LINE, zorder=1)
        axes.set_xscale("log")
        log_ticks(axes.xaxis, (1, 2, 5), 9)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y")

    def farthest(self, name: str) -> dict[str, tuple[float, int]]:
        """Measure -> the ratio farthest from 1 in a model, and the number of its map."""
        moved = {}
        for measure in SHOWN:
            found = self.ratios(name, measure)
            ratios = zip(found["value"].astype(float), found["x"].astype(int), strict=True)
            moved[measure] = max(ratios, key=lambda ratio: abs(math.log(ratio[0])))
        return moved

    def terms(self) -> dict[str, object]:
        moved = self.farthest(self.names[0])
        still = [SHOWN[measure] for measure, (value, _) in moved.items() if abs(math.log(value)) < 0.01]
        top = max(moved, key=lambda measure: abs(math.log(moved[measure][0])))
        return {
            # The largest change of the tokens, which should be rounding alone.
            "change": float(self.report.rows(self.probe, "moved_function")["value"].max()),
            "model": self.names[0],
            "measure": SHOWN[top],
            "ratio": moved[top][0],
            "map": list(MAPS.values())[moved[top][1] - 1],
            "still": f"within 1 % under every map: {', '.join(still)}" if still else NOTHING_STILL,
        }

    def lines(self) -> Lines:
        for name in self.names:
            for number, text in enumerate(MAPS.values(), start=1):
                line = {"model": name, "map": text}
                for measure in ("function", *SHOWN):
                    found = self.of(name, f"moved_{measure}")
                    value = found[found["x"] == number]["value"]
                    label = SHOWN.get(measure, "change of the outputs")
                    line[label] = f"{float(value.iloc[0]):.3g}" if len(value) and value.notna().all() else "–"
                yield line
