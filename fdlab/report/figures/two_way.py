"""Does distilling help, and is it the design? A panel a measure, its effects with intervals and single seeds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from fdlab.compare.significance import ALPHA
from fdlab.compare.two_way import (
    BY_SEED,
    DESIGN,
    DESIGN_DISTILLED,
    EFFECTS,
    HOLM,
    INTERACTION,
    OWN,
    PROBE,
    STUDENTS,
    TOGETHER,
)
from fdlab.records.metrics import METRICS
from fdlab.report.captions import listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.numbers import is_share
from fdlab.report.style import FAINT, INK, MARK, PAPER, SHADES_OF_BLUE, WIDE, bars, new_figure, wrap

# What is drawn, the paper's comparison first; told apart by marker and row as well as by colour. No model has these
# colours, so that hiding a model on the page hides no effect.
DRAWN = {TOGETHER: (MARK, "^"), OWN: (SHADES_OF_BLUE[4], "o"), STUDENTS: (SHADES_OF_BLUE[2], "s")}
SAID = {
    TOGETHER: "paper's student minus its teacher",
    OWN: "in the teacher's design: student minus teacher",
    STUDENTS: "in the student's design: distilled minus trained directly",
    DESIGN: "designs trained directly: student's minus plain",
    DESIGN_DISTILLED: "designs distilled: student's minus plain",
    INTERACTION: "interaction",
}
PRIMARY = ("best_accuracy", "r2_relative", "distance_spread", "head_similarity", "eigenvalue_1_balanced")
SINGLE = 5  # so many seeds, or fewer, are drawn one by one
MEASURE = ["metric", "objective", "x", "unit"]


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the two-way table, with ``holm``: the p of each effect after correction (NaN: not tested)."""
    rows, adjusted = (table[table["probe"] == probe] for probe in (PROBE, HOLM))
    keys = ["model", "reference", "metric", "objective", "x"]
    known = {tuple(map(str, key)): value for *key, value in adjusted[[*keys, "value"]].itertuples(index=False)}
    found = [known.get(tuple(map(str, key)), np.nan) for key in rows[keys].itertuples(index=False)]
    return rows.assign(holm=found)


class TwoWay(Figure):
    """A panel a measure; a block of rows a kind of pre-training, a row an effect; the line is no effect."""

    metrics = ("r2_relative", "r2_absolute", "best_accuracy", "lr_width")
    trainings = False

    @cached_property
    def rows(self) -> pd.DataFrame:
        return effects(self.report.table)

    @cached_property
    def names(self) -> list[str]:
        """The kinds of pre-training."""
        return list(dict.fromkeys(self.rows["model"]))

    @cached_property
    def measures(self) -> list[tuple[str, pd.DataFrame]]:
        """(title, rows) of each measure, in the table's order."""
        groups = self.rows.groupby(MEASURE, sort=False, dropna=False)
        return [(title_of(group.iloc[0]), group) for _, group in groups]

    @cached_property
    def panels(self) -> list[tuple[str, pd.DataFrame]]:
        """The measures that are drawn: the primary ones in their order, else the first five."""
        place = {metric: number for number, metric in enumerate(PRIMARY)}
        primary = [each for each in self.measures if each[1]["metric"].iloc[0] in place]
        chosen = sorted(primary, key=lambda each: place[each[1]["metric"].iloc[0]])
        return (chosen or self.measures)[: len(PRIMARY)]

    def draw(self) -> Drawing:
        figure = new_figure(WIDE, 1.0 + 0.5 * len(self.names))
        grid = figure.subplots(1, len(self.panels), squeeze=False, sharey=True)[0]
        for axes, (title, group) in zip(grid, self.panels, strict=True):
            self._panel(axes, title, group)
        handles = grid[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=1, handletextpad=0.2, fontsize=6.5)
        return figure

    def _panel(self, axes: Axes, title: str, group: pd.DataFrame) -> None:
        for number, (effect, (color, marker)) in enumerate(DRAWN.items()):
            found = group[group["reference"] == effect].drop_duplicates("model").set_index("model")
            shown = [kind for kind in self.names if kind in found.index]
            for kind in shown:
                row, y = found.loc[[kind]].iloc[0], self.names.index(kind) + (number - 1) * 0.27
                ink = color if seen(row) or survives(row) else FAINT
                scale = 100.0 if is_share(str(row["metric"])) else 1.0
                axes.errorbar(
                    [scale * row["value"]], [y], xerr=scale * bars(row), ls="", elinewidth=1.0, marker=marker,
                    color=ink, markerfacecolor=color if survives(row) else PAPER, markersize=4.2, zorder=3,
                )  # fmt: skip
                singles = [scale * value for value in self._of_seeds(row, effect, kind)]
                axes.plot(singles, [y + 0.1] * len(singles), ".", color=color, markersize=1.8, alpha=0.7)
            axes.plot([], [], marker=marker, ls="", color=color, markersize=4.2, label=SAID[effect])
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_title(wrap(title, 17, 4), fontsize=6.5)
        axes.set_yticks(range(len(self.names)), self.names, fontsize=6.5)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(2))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    def _of_seeds(self, row: pd.Series, effect: str, kind: str) -> list[float]:
        """The effect of each seed, where there are few."""
        table = self.report.table
        same = (table["probe"] == BY_SEED) & (table["reference"] == effect) & (table["model"] == kind)
        for key in MEASURE:
            same &= table[key].isna() if pd.isna(row[key]) else table[key] == row[key]
        values = table.loc[same, "value"].astype(float).tolist()
        return values if len(values) <= SINGLE else []

    def terms(self) -> dict[str, object]:
        seeds = int(self.rows["n"].max())
        tested = self.rows[self.rows["holm"].notna()]
        return {
            "seeds_each": seeds,  # that the intervals are taken over
            "several": seeds > 1,
            "kinds": listed(self.names),
            "count": len(self.panels),
            "bounded": len(tested) > 0,
            "tested": len(tested),
            "surviving": int((tested["holm"] <= ALPHA).sum()),
            "papers": self._papers(),
        }

    def _papers(self) -> str:
        """The paper's own comparison of the first kind, on the first measure drawn."""
        title, group = self.panels[0]
        row = group[(group["reference"] == TOGETHER) & (group["model"] == self.names[0])]
        return f"{title} of the {self.names[0]} student minus its teacher is {_text(row.iloc[0])}" if len(row) else ""

    def lines(self) -> Lines:
        """Every effect of every measure, the paper's comparison first."""
        for title, group in self.measures:
            for kind, rows in group.groupby("model", sort=False):
                line = {"measure": title, "pre-training": str(kind)}
                for effect in EFFECTS:
                    row = rows[rows["reference"] == effect]
                    line[SAID[effect]] = _text(row.iloc[0]) if len(row) else "–"
                line["seeds"] = str(int(rows["n"].max()))
                yield line


def surviving(table: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.Series]]:
    """(effect, kind, measure in words, row) of every effect that survives the correction, in the table's order."""
    rows = effects(table)
    for effect in EFFECTS:
        for _, row in rows[(rows["reference"] == effect) & (rows["holm"] <= ALPHA)].iterrows():
            yield effect, str(row["model"]), title_of(row), row


def title_of(row: pd.Series) -> str:
    """A measure in words: its metric, its pooling or labels, its unit."""
    metric = str(row["metric"])
    name = METRICS[metric].label if metric in METRICS else metric
    if metric == "accuracy" and pd.notna(row["x"]):
        name = f"accuracy, {row['x']:g} labels a class"
    if metric in ("knn", "linear_probe") and row["objective"]:
        name += ", " + str(row["objective"]).partition(",")[0]
    name += _around(str(row["objective"]))
    unit = "points" if is_share(metric) else row["unit"]
    return name + (f" ({unit})" if unit else "")


def _around(objective: str) -> str:
    """Around which weights and on which images a curvature was measured, where not around those that were compared."""
    if objective.startswith("cross-entropy of the model's own fine-tuning"):
        return ", after fine-tuning, augmented images"
    if objective.startswith("cross-entropy of the model's own classifier"):
        at = objective.partition("scaled to a mean loss of ")[2]
        return ", after fine-tuning" + (f", at a loss of {at}" if at else "")
    return ""


def survives(row: pd.Series) -> bool:
    """Whether an effect is clear after the correction over the whole table."""
    return bool(pd.notna(row["holm"]) and row["holm"] <= ALPHA)


def seen(row: pd.Series) -> bool | None:
    """Whether the interval, by itself, leaves out 0; None without an interval."""
    if pd.isna(row["low"]):
        return None
    return bool(row["low"] > 0 or row["high"] < 0)


def _text(row: pd.Series) -> str:
    scale, form = (100.0, "+.1f") if is_share(str(row["metric"])) else (1.0, "+.3g")
    value, low, high = (f"{scale * row[part]:{form}}" for part in ("value", "low", "high"))
    interval = "" if pd.isna(row["low"]) else f" [{low}, {high}]"
    return f"{value}{interval}{' *' if survives(row) else ''}"
