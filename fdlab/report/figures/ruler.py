"""The measure tested on data whose attention distance is known beforehand: measured against ideal."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, listed, seeds
from fdlab.report.style import COLUMN, FAINT, INK, bars, new_figure
from fdlab.report.summary import Facts, estimate, plain, rows, show

TITLE = "A ruler for attention distance"
METRICS = ("distance", "entropy")
COLOR = "#4477aa"


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not (rows(table, "ruler", "distance_weighted").empty or rows(table, "ruler", "distance_ideal").empty)


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Pixels against the dial ALPHA."""
    measured = rows(table, "ruler", "distance_weighted").sort_values("x")
    ideal = rows(table, "ruler", "distance_ideal").groupby("x", as_index=False)["value"].mean()
    heads = rows(table, "ruler", "distance")
    heads = heads[heads["head"].notna()]
    figure = new_figure(COLUMN, 2.6)
    axes = figure.subplots()
    if len(heads):
        axes.plot(
            heads["x"] + 0.03,  # beside the mean, not under it
            heads["value"],
            "o",
            ms=3.2,
            mew=0,
            color=FAINT,
            label="a head of block 1",
        )
    axes.plot(ideal["x"], ideal["value"], color=INK, lw=1.0, label="ideal")
    axes.errorbar(
        measured["x"],
        measured["value"],
        yerr=bars(measured),
        ls="",
        marker="D",
        ms=5,
        mfc="#ffffff",
        mew=1.2,
        color=COLOR,
        elinewidth=1.1,
        label="measured, block 1",
    )
    uniform = facts.get("ruler_uniform_px")
    if uniform is not None:
        axes.axhline(uniform, color=INK, lw=0.7, ls=(0, (4, 2.5)), zorder=1, label="uniform attention")
    axes.set(xlabel="ALPHA, share of images with far twins", ylabel="attention distance (px)")
    axes.set_xlim(-0.08, 1.08)
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted(ideal["x"].unique()), [f"{x:g}" for x in sorted(ideal["x"].unique())])
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    measured = rows(table, "ruler", "distance_weighted")
    dials = sorted(measured["x"].unique())
    counts = measured["n"].dropna()
    images = f", {int(counts.max())} test images a dial" if len(counts) else ""
    options = sorted({one for name in measured["model"] for one in facts.get("options", {}).get(name, ())})
    own = f"; not the paper's setting: {'; '.join(options)} in every model" if options else ""
    return (
        f"Attention distance in block 1 of {len(dials)} small transformers, each trained on procedural "
        "images whose "
        f"label needs cells at a known distance to be compared{images}{seeds(facts)}{own}.",
        "The line is the distance that the task asks for, a diamond the mean over heads weighted by their "
        "sharpness "
        "(1 - entropy / log N) with its 95 % interval over images, a grey dot a head, the dashed line "
        "uniform attention.",
        _comparison(table, facts),
        "This shows that the measure follows a known truth for trained, sharp heads; a head near the "
        "dashed line may "
        "look at all cells or at none, and the distance says nothing about what a model uses its attention "
        "for.",
    )


def _comparison(table: pd.DataFrame, facts: Facts) -> str:
    parts = []
    dials = sorted(rows(table, "ruler", "distance_weighted")["x"].unique())
    for dial in dict.fromkeys((dials[0], dials[-1])):
        at = table[table["x"] == dial]
        measured, ideal = (estimate(rows(at, "ruler", f"distance_{kind}")) for kind in ("weighted", "ideal"))
        if not (measured.known and ideal.known):
            parts.append(f"at ALPHA {dial:g} the distance is undefined")
            continue
        side = ""
        uniform = facts.get("ruler_uniform_px")
        if uniform is not None and measured.bounded:
            apart = "above" if measured.low > uniform else "below" if measured.high < uniform else "not separated from"
            side = f", {apart} the uniform {uniform:.1f} px"
        parts.append(
            f"at ALPHA {dial:g} the measured distance is {show(measured, 'distance', unit=True)} where the "
            "ideal is "
            f"{ideal.value:.1f} px{side}"
        )
    text = listed(parts)
    return text[0].upper() + text[1:] + "."


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for dial in sorted(rows(table, "ruler", "distance_weighted")["x"].unique()):
        at = table[table["x"] == dial]
        heads = rows(at, "ruler", "distance")
        entropy = rows(at, "ruler", "entropy")
        lines.append(
            {
                "ALPHA": f"{dial:g}",
                "ideal (px)": show(estimate(rows(at, "ruler", "distance_ideal")), "distance"),
                "measured (px, 95 %)": show(estimate(rows(at, "ruler", "distance_weighted")), "distance"),
                "heads (px)": ", ".join(plain(value, ".1f") for value in heads["value"]),
                "entropy of the heads": ", ".join(plain(value) for value in entropy["value"]),
            }
        )
    return pd.DataFrame(lines)
