"""How far every head looks, block by block: the paper's own figure, a panel a model and a dot a head."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from fdlab.report.captions import Caption, caution, late_comparison, on_data, options, seeds
from fdlab.report.style import COLUMN, FAINT, INK, PAPER, WIDE, Look, block_ticks, looks_of, new_figure, wrap
from fdlab.report.summary import (
    Estimate,
    Facts,
    by_block,
    control_of,
    families,
    models,
    plain,
    rows,
    show,
    trained,
    uniform_px,
)

TITLE = "Attention distance of every head"
METRICS = ("distance", "distance_spread")
ACROSS = 4


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "attention", "distance").empty


def _panels(table: pd.DataFrame, facts: Facts) -> list[str]:
    """The trained models; untrained controls stand behind them, or alone where none is claimed."""
    names = models(rows(table, "attention", "distance"), facts, "attention")
    family = families(table)
    shown = trained(names, family)
    behind = {control_of(name, facts, names) for name in shown}
    return shown + [name for name in names if name not in shown and name not in behind]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Panels in rows of up to four; one scale for all unless their grids differ much."""
    shown = _panels(table, facts)
    names = models(table, facts, "attention")
    look = looks_of(table, facts)
    down = math.ceil(len(shown) / ACROSS)
    across = math.ceil(len(shown) / down)
    figure = new_figure(COLUMN if across == 1 else WIDE, 0.45 + 1.55 * down + (0.3 if across == 1 else 0))
    uniform = {name: uniform_px(table, facts, name) for name in shown}
    by_stage = facts.get("uniform_by_block_px", {})
    lines = [line for name, value in uniform.items() if math.isfinite(line := max(by_stage.get(name, [value])))]
    together = not lines or max(lines) < 1.6 * min(lines)
    grid = figure.subplots(down, across, squeeze=False, sharey=together)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        name = shown[place]
        _panel(axes, table, facts, name, look[name], uniform[name])
        axes.set_title(wrap(name, 20, 2), loc="left")
        if place % across == 0:
            axes.set_ylabel("distance (px)")
        if place + across >= len(shown):
            axes.set_xlabel("block")
    for axes in grid.flat[:1] if together else grid.flat[: len(shown)]:
        axes.margins(y=0.08)
        axes.autoscale(axis="y")
        # From 0, as the paper's: a zoomed axis makes the rounding of uniform attention look like structure.
        axes.set_ylim(0, axes.get_ylim()[1])
    controls = any(control_of(name, facts, names) for name in shown)
    handles = _handles(bool(lines), controls)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 2)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, facts: Facts, name: str, look: Look, uniform: float) -> None:
    heads = rows(table, "attention", "distance")
    control = control_of(name, facts, list(heads["model"].unique()))
    if control is not None:
        grey = heads[heads["model"] == control]
        axes.plot(grey["block"] + 1, grey["value"], "o", color=FAINT, ms=2.6, mew=0)
    own = heads[heads["model"] == name]
    # A thin edge in the page's colour keeps neighbouring dots apart; hollow ones have their own.
    edge = (
        {"mfc": look.color, "mec": PAPER, "mew": 0.3 if look.marker != "P" else 0}
        if look.fill
        else {"mfc": "none", "mew": 0.6}
    )
    axes.plot(own["block"] + 1, own["value"], look.marker, color=look.color, ms=3.2, **edge)
    mean = by_block(table, "distance", name)
    # The edge keeps the line readable over black dots (supervised models).
    axes.plot(
        mean["block"],
        mean["value"],
        color=INK,
        lw=1.0,
        marker="_" if len(mean) == 1 else "",  # a line needs two blocks
        ms=10,
        path_effects=[withStroke(linewidth=2.2, foreground=PAPER)],
    )
    by_stage = facts.get("uniform_by_block_px", {}).get(name, [])
    if len(set(by_stage)) > 1:  # windows: each stage has its own line
        axes.step(range(1, len(by_stage) + 1), by_stage, where="mid", color=INK, lw=0.7, ls=(0, (4, 2.5)), zorder=1)
    elif math.isfinite(uniform):
        axes.axhline(uniform, color=INK, lw=0.7, ls=(0, (4, 2.5)), zorder=1)
    block_ticks(axes, int(own["block"].max()) + 1)


def _handles(uniform: bool, controls: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], ls="", marker="o", ms=3.4, color=INK, mfc="none", mew=0.8, label="a head"),
        Line2D([], [], color=INK, lw=1.0, label="mean over heads"),
    ]
    if uniform:
        handles.append(Line2D([], [], color=INK, lw=0.7, ls=(0, (4, 2.5)), label="uniform attention"))
    if controls:
        handles.append(Line2D([], [], ls="", marker="o", ms=3.2, mew=0, color=FAINT, label="untrained, same design"))
    return handles


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    shown = _panels(table, facts)
    names = models(table, facts, "attention")
    claimed = any(control_of(name, facts, names) for name in shown)
    metric = "distance_spread" if not rows(table, "attention", "distance_spread").empty else "distance"
    quantity = "spread of distance over heads (largest minus smallest)"
    windowed = any(len(set(facts.get("uniform_by_block_px", {}).get(name, []))) > 1 for name in shown)
    own = rows(table, "attention", "distance")
    return (
        f"Attention distance of every head in every block of {len(shown)} "
        f"model{'s' if len(shown) > 1 else ''}, "
        f"averaged over {on_data(own, facts)}{seeds(facts)}{options(names, facts)}.",
        "Higher means that a head looks further, in pixels of the model's input; a dot is a head, the "
        "solid line "
        "their mean, the dashed line what uniform attention would give"
        + (" in whole windows (the mask of shifted windows keeps it lower there)" if windowed else "")
        + (", faint grey dots the same design before training." if claimed else "."),
        late_comparison(table, facts, metric, quantity if metric == "distance_spread" else "mean attention distance"),
        caution(
            "A large distance may only mean uniform attention, so it is read with the entropy, and "
            "distances at "
            "other image or patch sizes are not comparable",
            names,
            table,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    heads = rows(table, "attention", "distance")
    lines = []
    for name in models(heads, facts, "attention"):
        spread = by_block(table, "distance_spread", name).set_index("block")
        by_stage = dict(enumerate(facts.get("uniform_by_block_px", {}).get(name, ()), start=1))
        for block, own in heads[heads["model"] == name].groupby("block"):
            number = int(block) + 1
            lines.append(
                {
                    "model": name,
                    "block": number,
                    "heads, mean (px)": plain(own["value"].mean()),
                    "smallest": plain(own["value"].min()),
                    "largest": plain(own["value"].max()),
                    "spread (95 %)": show(Estimate(*spread.loc[number, ["value", "low", "high"]]), "distance_spread")
                    if number in spread.index
                    else "–",
                    "uniform": plain(by_stage.get(number, uniform_px(table, facts, name))),
                }
            )
    return pd.DataFrame(lines)
