"""What the score loses without each head, block by block: a panel a model and a dot a head."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fdlab.report.captions import Caption, caution, late_comparison, listed, on_images, options, seeds
from fdlab.report.figures.attribution_curves import undefined
from fdlab.report.style import COLUMN, FAINT, INK, PAPER, WIDE, bars, block_ticks, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, by_block, control_of, estimate, families, models, rows, show, trained

TITLE = "What the score loses without each head"
METRICS = ("head_effect_share", "head_effect")
PROBE, METRIC = "attribution", "head_effect_share"
ACROSS = 4
FEW = 48  # heads of a panel whose intervals can be told apart


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, PROBE, METRIC).empty


def _panels(table: pd.DataFrame, facts: Facts) -> list[str]:
    """The trained models; untrained controls stand behind them, or alone where none is claimed."""
    names = models(rows(table, PROBE, METRIC), facts, PROBE)
    shown = trained(names, families(table))
    behind = {control_of(name, facts, names) for name in shown}
    return shown + [name for name in names if name not in shown and name not in behind]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Panels in rows of up to four, one scale for all."""
    shown = _panels(table, facts)
    down = math.ceil(len(shown) / ACROSS)
    across = math.ceil(len(shown) / down)
    figure = new_figure(COLUMN if across == 1 else WIDE, 0.45 + 1.6 * down + (0.3 if across == 1 else 0))
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        _panel(axes, table, facts, shown[place])
        axes.set_title(wrap(shown[place], 20, 2), loc="left")
        if place % across == 0:
            axes.set_ylabel("drop / score (%)")
        if place + across >= len(shown):
            axes.set_xlabel("block")
    handles = [
        Line2D([], [], ls="", marker="o", ms=3.4, color=INK, mfc="none", mew=0.8, label="a head"),
        Line2D([], [], color=INK, lw=1.0, label="mean over heads"),
    ]
    if _controls(table, facts, shown):
        handles.append(Line2D([], [], ls="", marker="o", ms=3.2, mew=0, color=FAINT, label="untrained, same design"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, facts: Facts, name: str) -> None:
    found = rows(table, PROBE, METRIC)
    look, own = looks_of(table, facts)[name], found[found["model"] == name]
    axes.axhline(0, color=INK, lw=0.7, ls=(0, (4, 2.5)), zorder=1)
    block_ticks(axes, int(own["block"].max()) + 1)
    control = control_of(name, facts, list(found["model"].unique()))
    if control is not None:
        grey = found[found["model"] == control]
        axes.plot(_beside(grey), 100 * grey["value"], "o", color=FAINT, ms=2.6, mew=0)
    if own["value"].isna().all():
        axes.annotate("undefined", (0.5, 0.6), xycoords="axes fraction", ha="center", fontsize=6.5)
        return
    few = len(own) <= FEW
    axes.errorbar(
        _beside(own), 100 * own["value"], yerr=100 * bars(own) if few else None, ls="", elinewidth=0.6,
        marker=look.marker, color=look.color, ms=3.2, mfc=look.color if look.fill else "none",
        mec=PAPER if look.fill else look.color, mew=0.3 if look.fill else 0.6,
    )  # fmt: skip
    mean = by_block(table, METRIC, name, PROBE)
    axes.plot(
        mean["block"], 100 * mean["value"], color=INK, lw=1.0, marker="_" if len(mean) == 1 else "", ms=10,
        path_effects=[withStroke(linewidth=2.2, foreground=PAPER)],
    )  # fmt: skip


def _controls(table: pd.DataFrame, facts: Facts, shown: list[str]) -> bool:
    """Whether grey dots stand behind some panel."""
    known = rows(table, PROBE, METRIC).dropna(subset=["value"])
    return any(control_of(name, facts, list(known["model"].unique())) for name in shown)


def _beside(own: pd.DataFrame) -> pd.Series:
    """Heads of a block side by side, in their order, so that their intervals do not cover each other."""
    most = max(int(own["head"].max()), 1)
    return own["block"].astype(float) + 1 + 0.5 * (own["head"].astype(float) / most - 0.5)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    shown, found = _panels(table, facts), rows(table, PROBE, METRIC)
    names = models(found, facts, PROBE)
    claimed = _controls(table, facts, shown)
    barred = any(found["model"].eq(name).sum() <= FEW for name in shown)
    return (
        f"How much of the image's part in the score is lost when one head gives zeros, for every head of "
        f"{len(shown)} model{'s' if len(shown) > 1 else ''} over {on_images(found, facts)}; the score is the "
        f"{listed(list(dict.fromkeys(found['objective'])))}{seeds(facts)}{options(names, facts)}.",
        "Higher means that the score needs the head more, below the dashed zero it is higher without; a dot is a head "
        "(left to right within a block), the solid line their mean"
        + (", faint grey dots the same design before training" if claimed else "")
        + (", bars are 95 % intervals over images" if barred else "")
        + undefined(found, names),
        late_comparison(table, facts, METRIC, "mean drop of the score without one head", PROBE),
        caution(
            "Heads are left out one at a time, so heads that can stand in for each other all look unneeded, and the "
            "drops do not add up",
            names,
            found,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text: of each block the mean over heads, and the head that the score needs most."""
    found, lines = rows(table, PROBE, METRIC), []
    for name in models(found, facts, PROBE):
        for block, own in found[found["model"] == name].groupby("block"):
            line = {"model": name, "block": str(int(str(block)) + 1), "heads, mean (%)": show(estimate(own), METRIC)}
            known = own.dropna(subset=["value"])
            if known.empty:
                lines.append(line | {"most needed head": "–", "its drop (%)": "undefined"})
                continue
            most = known.sort_values("value", kind="stable").iloc[-1]
            drop = show(Estimate(most["value"], most["low"], most["high"]), METRIC)
            lines.append(line | {"most needed head": str(int(most["head"]) + 1), "its drop (%)": drop})
    return pd.DataFrame(lines)
