"""How alike the heads of a block are, with their entropy below: near-uniform maps are alike by themselves."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdlab.report.captions import Caption, caution, late_comparison, on_data, options, seeds
from fdlab.report.style import COLUMN, FAINT, INK, WIDE, Look, bars, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, by_block, control_of, families, models, rows, show, trained

TITLE = "How alike the heads of a block are"
METRICS = ("head_similarity", "entropy", "distance_spread")
LABELS = {"head_similarity": "similarity", "entropy": "entropy / log N", "distance_spread": "spread (px)"}
# What uniform attention has, whatever the model.
UNIFORM = {"head_similarity": 1.0, "entropy": 1.0, "distance_spread": 0.0}
UNIFORM_LINE: dict[str, Any] = {"color": INK, "lw": 0.7, "ls": (0, (4, 2.5))}
SHUFFLED = "head_similarity_shuffled"
ACROSS = 5


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "attention", "head_similarity").empty


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A column a model, a row a quantity; the other models stand behind in light grey."""
    names = models(rows(table, "attention", "head_similarity"), facts, "attention")
    family = families(table)
    shown = trained(names, family)
    look = looks_of(table, facts)
    metrics = [metric for metric in LABELS if not rows(table, "attention", metric).empty]
    known = {metric: rows(table, "attention", metric) for metric in metrics}
    lines = {metric: {name: by_block(known[metric], metric, name) for name in names} for metric in metrics}
    shuffled = {name: by_block(table, SHUFFLED, name) for name in shown}
    controls = {name: control_of(name, facts, names) for name in shown}
    bands = math.ceil(len(shown) / ACROSS)
    across = math.ceil(len(shown) / bands)
    height = 0.45 + bands * (0.25 + 0.95 * len(metrics))
    figure = new_figure(COLUMN if across == 1 else WIDE, height)
    grid = figure.subplots(bands * len(metrics), across, squeeze=False, sharex=True, sharey="none")
    top = rows(table, "attention", "distance_spread")[["value", "high"]].max(axis=None)
    for place in range(bands * across):
        band, column = divmod(place, across)
        for line, metric in enumerate(metrics):
            axes = grid[band * len(metrics) + line, column]
            if place >= len(shown):
                axes.set_axis_off()
                continue
            _lines(axes, lines[metric], shown[place], shown, controls[shown[place]], look)
            axes.axhline(UNIFORM[metric], zorder=1, clip_on=False, **UNIFORM_LINE)
            if metric == "head_similarity" and len(control := shuffled[shown[place]]):
                axes.plot(control["depth"], control["value"], color=look[shown[place]].color, lw=0.7, zorder=2)
            axes.set_ylim(0, 1.02 if metric != "distance_spread" else 1.08 * top if top > 0 else 1)
            axes.set_xlim(0, 1.07)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            if column == 0:
                axes.set_ylabel(LABELS[metric])
            else:
                axes.tick_params(labelleft=False)
            below = place + across < len(shown)
            axes.tick_params(labelbottom=line == len(metrics) - 1 and not below)
            if line == 0:
                axes.set_title(wrap(shown[place], 15 if across > 4 else 19, 3), loc="left")
            if line == len(metrics) - 1 and not below:
                axes.set_xlabel("relative depth")
    figure.align_ylabels()
    handles = _handles(len(shown) > 1, any(controls.values()), look, family, names)
    if any(len(lines) for lines in shuffled.values()):
        handles.append(Line2D([], [], color=INK, lw=0.7, label="keys shuffled"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 1)
    return figure


def _lines(
    axes: Axes,
    lines: dict[str, pd.DataFrame],
    name: str,
    shown: list[str],
    control: str | None,
    look: dict[str, Look],
) -> None:
    for other in shown:
        if other != name:
            axes.plot(lines[other]["depth"], lines[other]["value"], color=FAINT, lw=0.7, zorder=1)
    if control is not None:
        axes.plot(lines[control]["depth"], lines[control]["value"], color=look[control].color, lw=1.0, ls=":")
    data, own = lines[name], look[name]
    style = own.points(3.6 if len(data) <= 6 else 2.6)
    axes.errorbar(data["depth"], data["value"], yerr=bars(data), ls=own.line, lw=1.2, elinewidth=0.8, zorder=3, **style)


def _handles(
    others: bool, controls: bool, look: dict[str, Look], family: dict[str, str], names: list[str]
) -> list[Line2D]:
    handles = [Line2D([], [], **UNIFORM_LINE, label="uniform attention")]
    if others:
        handles.append(Line2D([], [], color=FAINT, lw=0.9, label="other trained models"))
    if controls:
        grey = next((look[name].color for name in names if family.get(name) == "random"), FAINT)
        handles.append(Line2D([], [], color=grey, lw=1.2, ls=":", label="untrained, same design"))
    return handles


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = models(rows(table, "attention", "head_similarity"), facts, "attention")
    spread = " and spread of distance (bottom)" if not rows(table, "attention", "distance_spread").empty else ""
    entropy = not rows(table, "attention", "entropy").empty
    middle = ("entropy (middle)" if spread else "entropy (bottom)") if entropy else ""
    claimed = any(control_of(name, facts, names) for name in names)
    grey = ", the dotted grey line is the same design before training" if claimed else ""
    known = not rows(table, "attention", SHUFFLED).empty
    thin = ", the thin line the likeness left when each head's keys change places at random" if known else ""
    rest = f" with their {middle}{spread}" if middle else ""
    own = rows(table, "attention", "head_similarity")
    return (
        f"Mean cosine between the attention maps of two heads of a block (top){rest}, over "
        f"{on_data(own, facts)}"
        f"{seeds(facts)}{options(names, facts)}.",
        f"At 1 all heads of a block attend alike; the dashed line is uniform attention{thin}; bars are 95 % "
        f"intervals over images{grey}.",
        late_comparison(table, facts, "head_similarity", "cosine between heads"),
        caution(
            "Similarity is confounded by entropy, because nearly uniform maps are alike whatever they do, "
            "and it "
            "depends on the measure of likeness",
            names,
            table,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    control = not rows(table, "attention", SHUFFLED).empty
    for name in models(rows(table, "attention", "head_similarity"), facts, "attention"):
        series = {
            metric: by_block(table, metric, name).set_index("block")
            for metric in (*LABELS, *([SHUFFLED] if control else []))
        }
        for block in series["head_similarity"].index:
            line = {"model": name, "block": int(block)}
            for metric, data in series.items():
                label = LABELS.get(metric, "similarity, keys shuffled")
                known = block in data.index
                line[label] = show(Estimate(*data.loc[block, ["value", "low", "high"]]), metric) if known else "–"
            lines.append(line)
    return pd.DataFrame(lines)
