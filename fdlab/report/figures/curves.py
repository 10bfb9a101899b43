"""Training loss by step, a panel a stage: did every training come to rest, and on the same budget?"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fdlab.report.captions import several_seeds
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import REFERENCE_LINE, filled, label_outer
from fdlab.report.style import COLUMN, WIDE, new_figure, wrap


class Curves(Figure):
    """Panels in rows of up to three, each with its own scale: different losses are not comparable."""

    metrics = ()
    probe, metric = "curve", "loss"
    trainings = False

    @property
    def stages(self) -> list[str]:
        """The stages as they come in the table."""
        return list(dict.fromkeys(self.rows["objective"]))

    def stage(self, stage: str) -> pd.DataFrame:
        """The rows of a stage."""
        return self.rows[self.rows["objective"] == stage]

    def draw(self) -> Drawing:
        names, stages = self.names, self.stages
        across = min(len(stages), 2 if len(stages) in (2, 4) else 3)
        down = math.ceil(len(stages) / across)
        columns = 3 if across > 1 else 1
        height = 0.15 + 1.5 * down + 0.24 * math.ceil(len(names) / columns) + (0.4 if across == 1 else 0)
        figure = new_figure(COLUMN if across == 1 else WIDE, height)
        grid = figure.subplots(down, across, squeeze=False)
        handles: dict[str, Line2D] = {}
        for number, axes, stage in filled(grid, stages):
            handles |= self._panel(axes, stage)
            axes.set_title(wrap(stage or "training", 30, 2), loc="left")
            label_outer(axes, number, grid, len(stages), "step", "loss")
            if "distil" in stage.lower():
                self._position_only(axes)
        drawn = [name for name in names if name in handles]
        labels = [wrap(name, 30, 2) for name in drawn]
        figure.legend([handles[name] for name in drawn], labels, loc="outside lower center", ncols=columns)
        return figure

    def _panel(self, axes: Axes, stage: str) -> dict[str, Line2D]:
        """Draws a stage; returns one line of each model for the legend."""
        curves, handles = self.stage(stage), {}
        for number, name in enumerate(self.names):
            look = self.looks[name]
            for _, run in curves[curves["model"] == name].groupby("seed", dropna=False):
                run = run[run["value"].notna()].sort_values("x")
                if run.empty:
                    continue
                style = look.points(3.2) | {"markevery": (0.05 + 0.9 * number / len(self.names) * 0.2, 0.25)}
                (handles[name],) = axes.plot(run["x"], run["value"], ls=look.line, lw=0.9, **style)
        values = curves["value"].dropna()
        if len(values) and values.min() > 0 and values.max() > 8 * values.min():
            axes.set_yscale("log")
        return handles

    def _position_only(self, axes: Axes) -> None:
        line = self.report.facts.position_only_loss
        if line is not None and math.isfinite(line):
            axes.axhline(line, **REFERENCE_LINE)
            axes.annotate(
                "position mean only", (1, line), (0, 2), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", fontsize=6,
            )  # fmt: skip

    def shows(self) -> str:
        """The last stage's highest and lowest final loss; single runs carry no interval, so none are ordered."""
        stage = str(self.rows["objective"].iloc[-1])
        ends = self._ends(stage)
        label = f"the stage {stage}" if stage else "training"
        if not ends:
            return self.say("nothing", stage=label)
        low, high = min(ends, key=lambda name: ends[name][1]), max(ends, key=lambda name: ends[name][1])
        (first, last), highest = ends[low], ends[high][1]
        sentence = "single" if low == high else "range"
        return self.say(sentence, stage=label, low=low, high=high, first=first, last=last, highest=highest)

    def _ends(self, stage: str) -> dict[str, tuple[float, float]]:
        """Model -> first and last known loss of a stage, means over seeds."""
        ends, curves = {}, self.stage(stage)
        for name, own in curves[curves["value"].notna()].groupby("model", sort=False):
            runs = [run.sort_values("x")["value"] for _, run in own.groupby("seed", dropna=False)]
            first, last = (sum(float(run.iloc[end]) for run in runs) / len(runs) for end in (0, -1))
            ends[str(name)] = (first, last)
        return ends

    def terms(self) -> dict[str, object]:
        distilled = any("distil" in stage.lower() for stage in self.stages)
        return {
            "line": distilled and self.report.facts.position_only_loss is not None,  # of the position mean
            "several": several_seeds(self.rows),
        }

    def lines(self) -> Lines:
        for stage in self.stages:
            curves, ends = self.stage(stage), self._ends(stage)
            for name in (name for name in self.report.ordered(curves["model"]) if name in ends):
                first, last = ends[name]
                line = {"stage": stage, "model": name}
                line["last step"] = f"{curves[curves['model'] == name]['x'].max():g}"
                yield line | {"first loss": f"{first:.3g}", "last loss": f"{last:.3g}"}
