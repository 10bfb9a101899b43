"""Training loss by step, a panel a stage: did every training come to rest, and on the same budget?"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdlab.report.captions import Caption, options, seeds
from fdlab.report.style import COLUMN, INK, WIDE, Look, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, models, rows

TITLE = "Training loss by step"
METRICS = ()


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, "curve", "loss").empty


def stages(table: pd.DataFrame) -> list[str]:
    """The stages as they come in the table."""
    return list(dict.fromkeys(rows(table, "curve", "loss")["objective"]))


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Panels in rows of up to three, each with its own scale: different losses are not comparable."""
    curves = rows(table, "curve", "loss")
    names = models(curves, facts, "curve")
    look = looks_of(table, facts)
    shown = stages(table)
    across = min(len(shown), 2 if len(shown) in (2, 4) else 3)
    down = math.ceil(len(shown) / across)
    columns = 3 if across > 1 else 1
    height = 0.15 + 1.5 * down + 0.24 * math.ceil(len(names) / columns) + (0.4 if across == 1 else 0)
    figure = new_figure(COLUMN if across == 1 else WIDE, height)
    grid = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Line2D] = {}
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        handles |= _panel(axes, curves[curves["objective"] == shown[place]], names, look)
        axes.set_title(wrap(shown[place] or "training", 30, 2), loc="left")
        if place % across == 0:
            axes.set_ylabel("loss")
        if place + across >= len(shown):
            axes.set_xlabel("step")
        line = facts.get("position_only_loss")
        if "distil" in shown[place].lower() and line is not None and math.isfinite(line):
            axes.axhline(line, color=INK, lw=0.7, ls=(0, (4, 2.5)))
            axes.annotate(
                "position mean only",
                (1, line),
                (0, 2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize=6,
            )
    figure.legend(
        [handles[n] for n in names if n in handles],
        [wrap(n, 30, 2) for n in names if n in handles],
        loc="outside lower center",
        ncols=columns,
    )
    return figure


def _panel(axes: Axes, curves: pd.DataFrame, names: list[str], look: dict[str, Look]) -> dict[str, Line2D]:
    handles: dict[str, Line2D] = {}
    for name in names:
        for _, run in curves[curves["model"] == name].groupby("seed", dropna=False):
            run = run[run["value"].notna()].sort_values("x")
            if run.empty:
                continue
            own = look[name]
            style = own.points(3.2) | {"markevery": (0.05 + 0.9 * names.index(name) / len(names) * 0.2, 0.25)}
            handles[name] = axes.plot(run["x"], run["value"], ls=own.line, lw=0.9, **style)[0]
    values = curves["value"].dropna()
    if len(values) and values.min() > 0 and values.max() > 8 * values.min():
        axes.set_yscale("log")
    return handles


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    curves = rows(table, "curve", "loss")
    names = models(curves, facts, "curve")
    scale = "each panel has its own scale (logarithmic where the loss falls eightfold)"
    line = "; the dashed line is the loss of predicting the position mean alone"
    distil = any("distil" in stage.lower() for stage in stages(table)) and facts.get("position_only_loss") is not None
    return (
        f"Training loss of every stage, {len(names)} model{'s' if len(names) > 1 else ''}{seeds(facts)}"
        f"{options(names, facts)}.",
        f"Lower is better within a panel; {scale}{line if distil else ''}.",
        _last(curves, names),
        "Losses of different stages are not comparable, a low training loss is no evidence of a good "
        "representation, "
        "and one run a model has no interval.",
    )


def _last(curves: pd.DataFrame, names: list[str]) -> str:
    """The last stage's highest and lowest final loss; single runs carry no interval, so none are ordered."""
    stage = curves["objective"].iloc[-1]
    ends = _ends(curves[curves["objective"] == stage])
    label = f"the stage {stage}" if stage else "training"
    if not ends:
        return f"In {label} no loss is known."
    name = min(ends, key=lambda n: ends[n][1])
    other = max(ends, key=lambda n: ends[n][1])
    if name == other:
        first, last = ends[name]
        return f"In {label} the loss of {name} goes from {first:.3g} to {last:.3g}; no interval is known."
    return (
        f"In {label} the last logged losses reach from {ends[name][1]:.3g} ({name}) to "
        f"{ends[other][1]:.3g} ({other}); "
        "they are single values without intervals, so no order is read from them."
    )


def _ends(curves: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Model -> first and last known loss, means over seeds."""
    ends = {}
    for name, own in curves[curves["value"].notna()].groupby("model", sort=False):
        runs = [run.sort_values("x")["value"] for _, run in own.groupby("seed", dropna=False)]
        first, last = (sum(float(run.iloc[place]) for run in runs) / len(runs) for place in (0, -1))
        ends[str(name)] = (first, last)
    return ends


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    curves = rows(table, "curve", "loss")
    lines = []
    for stage in stages(table):
        own = curves[curves["objective"] == stage]
        ends = _ends(own)
        for name in models(own, facts, "curve"):
            if name in ends:
                steps = own[own["model"] == name]["x"].max()
                first, last = ends[name]
                lines.append(
                    {
                        "stage": stage,
                        "model": name,
                        "last step": f"{steps:g}",
                        "first loss": f"{first:.3g}",
                        "last loss": f"{last:.3g}",
                    }
                )
    return pd.DataFrame(lines)
