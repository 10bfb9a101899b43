"""What belongs to the design, what to the distillation: a panel a measure, effects with intervals over seeds."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from fdlab.records.metrics import METRICS
from fdlab.report.captions import listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.style import INK, WIDE, bars, new_figure, wrap

# Told apart by marker and row as well as by colour.
EFFECTS = {"design": ("#4477aa", "o"), "distillation": ("#8b4513", "^"), "interaction": ("#5c5c5c", "D")}
COLUMNS = 4
MEASURE = ["metric", "objective", "x", "unit"]


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the two-way table."""
    return table[table["probe"] == "two_way"]


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

    def draw(self) -> Drawing:
        columns = min(COLUMNS, len(self.measures))
        lines = -(-len(self.measures) // columns)
        figure = new_figure(WIDE, 0.45 + lines * (0.62 + 0.3 * len(self.names)))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for number, axes in enumerate(grid.flat):
            if number < len(self.measures):
                self._panel(axes, *self.measures[number])
            else:
                axes.set_visible(False)
        handles = grid.flat[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(EFFECTS), handletextpad=0.2)
        return figure

    def _panel(self, axes: Axes, title: str, group: pd.DataFrame) -> None:
        for number, (effect, (color, marker)) in enumerate(EFFECTS.items()):
            found = group[group["reference"] == effect].drop_duplicates("model").set_index("model")
            shown = [kind for kind in self.names if kind in found.index]
            for kind in shown:
                row = found.loc[kind]
                axes.errorbar(
                    [row["value"]], [self.names.index(kind) + (number - 1) * 0.26], xerr=bars(row), ls="",
                    elinewidth=1.0, marker=marker, color=color, markersize=4,
                    label=effect if kind == shown[0] else None,
                )  # fmt: skip
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_title(wrap(title, 22, 3), fontsize=6.5)
        axes.set_yticks(range(len(self.names)), self.names, fontsize=6.5)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    def seen_in(self, effect: str) -> tuple[int, int]:
        """The number of measures and kinds whose interval leaves out 0, and of all that have an interval."""
        bounded = self.rows[(self.rows["reference"] == effect) & self.rows["low"].notna()]
        return sum(bool(seen(row)) for _, row in bounded.iterrows()), len(bounded)

    def terms(self) -> dict[str, object]:
        seeds, counts = int(self.rows["n"].max()), {effect: self.seen_in(effect) for effect in EFFECTS}
        return {
            "seeds_each": seeds,  # that the intervals are taken over
            "several": seeds > 1,
            "kinds": listed(self.names),
            "count": len(self.measures),
            "bounded": any(bounded for _, bounded in counts.values()),
            "counts": listed([f"{effect} in {some} of {bounded}" for effect, (some, bounded) in counts.items()]),
        }

    def lines(self) -> Lines:
        """The effects, with the paper's comparison beside them."""
        for title, group in self.measures:
            for kind, rows in group.groupby("model", sort=False):
                line = {"measure": title, "pre-training": str(kind)}
                for effect in (*EFFECTS, "together"):
                    row = rows[rows["reference"] == effect]
                    line[effect] = _text(row.iloc[0]) if len(row) else "–"
                line["seeds"] = str(int(rows["n"].max()))
                yield line


def title_of(row: pd.Series) -> str:
    """A measure in words: its metric, its pooling or labels, its unit."""
    metric = str(row["metric"])
    name = METRICS[metric].label if metric in METRICS else metric
    if metric == "accuracy" and pd.notna(row["x"]):
        name = f"accuracy, {row['x']:g} labels a class"
    if metric in ("knn", "linear_probe") and row["objective"]:
        name += ", " + str(row["objective"]).partition(",")[0]
    return name + (f" ({row['unit']})" if row["unit"] else "")


def seen(row: pd.Series) -> bool | None:
    """Whether the interval leaves out 0; None without an interval."""
    if pd.isna(row["low"]):
        return None
    return bool(row["low"] > 0 or row["high"] < 0)


def _text(row: pd.Series) -> str:
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{row['value']:+.3g}{interval}{' *' if seen(row) else ''}"
