"""What belongs to the design, what to the distillation: a panel a measure, effects with intervals over seeds."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fdlab.records.metrics import METRICS as DEFINED
from fdlab.report.captions import Caption, listed
from fdlab.report.style import INK, WIDE, bars, new_figure, wrap
from fdlab.report.summary import Facts

TITLE = "Design or distillation: two factors and their interaction"
METRICS = ("r2_relative", "r2_absolute", "best_accuracy", "lr_width")
# Told apart by marker and row as well as by colour.
EFFECTS = {
    "design": ("#4477aa", "o", "design"),
    "distillation": ("#8b4513", "^", "distillation"),
    "interaction": ("#5c5c5c", "D", "interaction"),
}
COLUMNS = 4
MEASURE = ["metric", "objective", "x", "unit"]


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the two-way table."""
    return table[table["probe"] == "two_way"]


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not effects(table).empty


def measures(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of each measure, in the table's order."""
    groups = effects(table).groupby(MEASURE, sort=False, dropna=False)
    return [(title_of(group.iloc[0]), group) for _, group in groups]


def title_of(row: pd.Series) -> str:
    """A measure in words: its metric, its pooling or labels, its unit."""
    metric = str(row["metric"])
    name = DEFINED[metric].label if metric in DEFINED else metric
    if metric == "accuracy" and pd.notna(row["x"]):
        name = f"accuracy, {row['x']:g} labels a class"
    if metric in ("knn", "linear_probe") and row["objective"]:
        name += ", " + str(row["objective"]).partition(",")[0]
    return name + (f" ({row['unit']})" if row["unit"] else "")


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A panel a measure; a block of rows a kind of pre-training, a row an effect; the line is no effect."""
    found = measures(table)
    kinds = list(dict.fromkeys(effects(table)["model"]))
    columns = min(COLUMNS, len(found))
    lines = math.ceil(len(found) / columns)
    figure = new_figure(WIDE, 0.45 + lines * (0.62 + 0.3 * len(kinds)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place < len(found):
            _panel(axes, *found[place], kinds)
        else:
            axes.set_visible(False)
    handles = grid.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(EFFECTS), handletextpad=0.2)
    return figure


def _panel(axes: Axes, title: str, group: pd.DataFrame, kinds: list[str]) -> None:
    for number, (effect, (color, marker, label)) in enumerate(EFFECTS.items()):
        own = group[group["reference"] == effect].drop_duplicates("model").set_index("model")
        shown = [kind for kind in kinds if kind in own.index]
        for kind in shown:
            place = kinds.index(kind)
            row = own.loc[kind]
            axes.errorbar(
                [row["value"]],
                [place + (number - 1) * 0.26],
                xerr=bars(row),
                ls="",
                elinewidth=1.0,
                marker=marker,
                color=color,
                markersize=4,
                label=label if kind == shown[0] else None,
            )
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_title(wrap(title, 22, 3), fontsize=6.5)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=6.5)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def seen(row: pd.Series) -> bool | None:
    """Whether the interval leaves out 0; None without an interval."""
    if pd.isna(row["low"]):
        return None
    return bool(row["low"] > 0 or row["high"] < 0)


def count(table: pd.DataFrame, effect: str) -> tuple[int, int]:
    """In how many of the measures and kinds an effect is seen, and of how many with an interval."""
    own = effects(table)
    judged = [seen(row) for _, row in own[own["reference"] == effect].iterrows()]
    known = [answer for answer in judged if answer is not None]
    return sum(known), len(known)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own = effects(table)
    kinds, seeds = list(dict.fromkeys(own["model"])), int(own["n"].max())
    words = f"{seeds} seeds are the unit" if seeds > 1 else "one seed"
    counts = {effect: count(table, effect) for effect in EFFECTS}
    if all(total == 0 for _, total in counts.values()):
        third = "With one seed there is no interval, so no effect can be called seen."
    else:
        parts = [f"{effect} in {some} of {total}" for effect, (some, total) in counts.items()]
        third = f"The interval leaves out 0 for {listed(parts)} measures and kinds of pre-training."
    return (
        f"Effects of the student's design, of distillation and of both together beyond their sum on "
        f"{len(measures(table))} measures, for {listed(kinds)} pre-training; {words}.",
        "Right of the line the student's design (or distilling) raises the measure; bars are 95 % t-intervals over "
        "seeds, and design plus distillation is the difference between the paper's student and its teacher.",
        third,
        f"So few seeds ({seeds}) show only large effects, one interval in twenty leaves out 0 by chance, and a "
        "model of this size says nothing about larger ones.",
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text, with the paper's comparison beside the effects."""
    lines = []
    for title, group in measures(table):
        for kind, own in group.groupby("model", sort=False):
            line = {"measure": title, "pre-training": str(kind)}
            for effect in (*EFFECTS, "together"):
                row = own[own["reference"] == effect]
                line[effect] = _text(row.iloc[0]) if len(row) else "–"
            line["seeds"] = str(int(own["n"].max()))
            lines.append(line)
    return pd.DataFrame(lines)


def _text(row: pd.Series) -> str:
    interval = "" if pd.isna(row["low"]) else f" [{row['low']:+.3g}, {row['high']:+.3g}]"
    return f"{row['value']:+.3g}{interval}{' *' if seen(row) else ''}"
