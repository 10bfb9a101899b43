"""How much of a teacher can be read out behind every block of a model."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdlab.report.captions import Caption, caution, late_comparison, on_data, options, seeds
from fdlab.report.style import WIDE, bars, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, by_block, families, models, rows, show

TITLE = "How much of the teacher the blocks hold"
METRICS = ("teacher_r2",)


def _rows(table: pd.DataFrame) -> pd.DataFrame:
    kept = rows(table, "features", "teacher_r2")
    return kept[kept["block"].notna() & kept["value"].notna()]


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not _rows(table).empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A line a model over its blocks, untrained models in grey."""
    own, look = _rows(table), looks_of(table, facts)
    names = models(own, facts, "features")
    figure = new_figure(WIDE, 1.7 + 0.15 * len(names))
    axes = figure.subplots()
    for name in names:
        data = by_block(own, "teacher_r2", name, "features")
        control = families(table).get(name) == "random"
        axes.errorbar(
            data["depth"], data["value"], yerr=bars(data), ls=look[name].line, lw=1.0, elinewidth=0.7,
            zorder=2 if control else 3, **look[name].points(3.2 if len(data) <= 6 else 2.2),
        )  # fmt: skip
    axes.set_xlim(0, 1.04)
    low, high = axes.get_ylim()
    axes.set_ylim(min(0.0, low), min(1.02, 1.1 * high))
    axes.set_xlabel("relative depth")
    axes.set_ylabel("teacher_r2")
    handles = [Line2D([], [], ls=look[name].line, **look[name].points(3.5)) for name in names]
    figure.legend(handles, [wrap(name, 24, 2) for name in names], loc="outside upper left", ncols=2)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    own, family = _rows(table), families(table)
    names = models(own, facts, "features")
    untrained = any(family.get(name) == "random" for name in names)
    return (
        "Share of the whitened teacher tokens' variance beyond their position mean that a ridge regression from the "
        f"patch tokens behind each block explains on images that it was not fitted on, over {on_data(own, facts)}"
        f"{seeds(facts)}{options(names, facts)}.",
        "Each line is a model from its first block to its last, 1 is all of the teacher and 0 no more than position "
        f"tells, bars are 95 % intervals over images{', grey is untrained' if untrained else ''}.",
        late_comparison(own, facts, "teacher_r2", "explained share", "features"),
        caution(
            "What can be read out linearly need not be used by the model, and "
            + ("only what lies above the grey line was learnt" if untrained else "an untrained model is not at 0"),
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    own = _rows(table)
    return pd.DataFrame(
        {"model": name, "block": str(line["block"]),
         "teacher_r2 (95 %)": show(Estimate(line["value"], line["low"], line["high"]), "teacher_r2")}
        for name in models(own, facts, "features")
        for line in by_block(own, "teacher_r2", name, "features").to_dict("records")
    )  # fmt: skip
