"""The loss on a plane through the weights: a panel a model and form, shared levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, options, seeds
from fdlab.report.style import COLUMN, INK, PAPER, SHADES_OF_BLUE, WIDE, new_figure, wrap
from fdlab.report.summary import Facts, models, rows

TITLE = "Loss on a plane through the weights"
METRICS = ("loss_plane", "loss_trajectory", "loss_eigenvectors", "trajectory")
FORMS = {"plane": "random", "eigenvectors": "sharpest two", "trajectory": "path of the training"}
ACROSS = 3
SHADES = ListedColormap(list(SHADES_OF_BLUE)).with_extremes(over=PAPER)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return any(not rows(table, "landscape", f"loss_{form}").empty for form in FORMS)


def _panels(table: pd.DataFrame, facts: Facts) -> list[tuple[str, str]]:
    return [
        (form, name) for form in FORMS for name in models(rows(table, "landscape", f"loss_{form}"), facts, "landscape")
    ]


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Shades and lines of the same losses in every panel, in equal steps of the logarithm."""
    panels = _panels(table, facts)
    forms = len({form for form, _ in panels})
    down = math.ceil(len(panels) / ACROSS)
    across = math.ceil(len(panels) / down)
    figure = new_figure(
        COLUMN if across < 2 else WIDE, 0.5 + (2.4 if across < 2 else 2.0 if across == 2 else 1.75) * down
    )
    grid = figure.subplots(down, across, squeeze=False)
    levels = _levels(table)
    shaded: Any = None
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        form, name = panels[place]
        shaded = _panel(axes, table, form, name, levels) or shaded
        if place + across >= len(panels):
            axes.set_xlabel("first direction")
        if place % across == 0:
            axes.set_ylabel("second direction")
        axes.set_title(wrap(name if forms == 1 else f"{name}: {FORMS[form]}", 22, 3), loc="left")
    bar = figure.colorbar(shaded, ax=grid, label="loss (nats)", shrink=0.8, aspect=30, ticks=levels[::2])
    bar.ax.set_yticklabels([f"{10**level:.2g}" for level in levels[::2]])
    bar.ax.minorticks_off()
    return figure


def _levels(table: pd.DataFrame) -> np.ndarray:
    """(9,) shared levels of log10 of the loss, from the lowest to twenty times as much at most."""
    found = pd.concat([rows(table, "landscape", f"loss_{form}")["value"] for form in FORMS]).dropna()
    found = found[found > 0]
    low, high = float(found.min()), float(found.max())
    return np.linspace(math.log10(low), math.log10(max(min(high, 100 * low), 1.2 * low)), 9)


def surface(table: pd.DataFrame, form: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (columns), y (rows) and Z[row][column] of one model's plane."""
    own = rows(table, "landscape", f"loss_{form}")
    wide = own[own["model"] == name].pivot_table(index="y", columns="x", values="value", dropna=False)
    return wide.columns.to_numpy(), wide.index.to_numpy(), wide.to_numpy()


def _panel(axes: Axes, table: pd.DataFrame, form: str, name: str, levels: np.ndarray) -> Any:
    x, y, z = surface(table, form, name)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log10(z)
    shaded = axes.contourf(x, y, logs, levels=levels, cmap=SHADES, extend="max")
    lines = axes.contour(x, y, logs, levels=levels[[2, 5]], colors=PAPER, linewidths=0.6, linestyles="solid")
    axes.clabel(lines, fmt=lambda level: f"{10**level:.2g}", fontsize=6, inline_spacing=2)
    lost = np.argwhere(~np.isfinite(z))
    axes.plot(x[lost[:, 1]], y[lost[:, 0]], "x", color=INK, ms=2.5, mew=0.5)
    axes.plot([0], [0], "+", color=PAPER, ms=6, mew=1.2)
    if form == "trajectory":
        path = rows(table, "landscape", "trajectory")
        path = path[path["model"] == name].sort_values("value")
        axes.plot([*path["x"], 0], [*path["y"], 0], "-o", color="#ee6677", ms=2.4, mew=0, lw=0.9)
    axes.set_aspect("equal")
    axes.locator_params(nbins=3)
    return shaded


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    panels = _panels(table, facts)
    names = list(dict.fromkeys(name for _, name in panels))
    forms = list(dict.fromkeys(form for form, _ in panels))
    own = rows(table, "landscape", f"loss_{forms[0]}")
    path = "trajectory" in forms
    measured, shown = int(own["n"].notna().sum()), len(own)
    filled = f", {shown - measured} of {shown} points interpolated on the logarithm" if measured < shown else ""
    parts = []
    for form, name in panels[:3]:
        _, _, z = surface(table, form, name)
        base = z[z.shape[0] // 2, z.shape[1] // 2]
        share = f"{np.mean(z < base + 1):.0%}" if np.isfinite(base) else "an unknown share"
        parts.append(f"{share} of the plane in {name}{'' if len(forms) == 1 else f' ({FORMS[form]})'}")
    what = {"plane": "two random filter-normalised directions", "eigenvectors": "the two sharpest directions"}
    what["trajectory"] = "the two principal axes of the training's path"
    held = _explained(table, names) if path else ""
    return (
        f"Loss on planes through the weights, spanned by {' or '.join(what[form] for form in forms)}, on "
        f"{int(own['n'].max())} images{filled}: {own['objective'].iloc[0]}{seeds(facts)}{options(names, facts)}.",
        "Darker is lower, shades and the two labelled lines are the same losses in every panel, white is beyond the "
        "scale, the cross is the model" + (", the joined dots are snapshots of its training." if path else "."),
        f"The loss is within one nat of the model's own on {', '.join(parts)}{held}.",
        caution(
            "A plane is a cut along two of very many directions: nothing follows on what lies off it, nor on flatness "
            "under rescaling" + (", and the path of a random walk would look as smooth" if path else ""),
            names,
            own,
            facts,
        ),
    )


def _explained(table: pd.DataFrame, names: list[str]) -> str:
    """What the two axes hold of each path, beside what they would hold of a random walk."""
    held, walk = (
        rows(table, "landscape", metric).groupby("model")["value"].sum()
        for metric in ("trajectory_explained", "trajectory_random_walk")
    )
    parts = [
        f"{held[name]:.0%} of the path of {name} ({walk[name]:.0%} of a random walk)" for name in names if name in held
    ]
    return f"; the two axes hold {', '.join(parts)}" if parts else ""


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text: the loss at the model, in the corners and their share within a nat."""
    lines = []
    for form, name in _panels(table, facts):
        x, _, z = surface(table, form, name)
        base = z[z.shape[0] // 2, z.shape[1] // 2]
        own = rows(table, "landscape", f"loss_{form}")
        lines.append(
            {
                "model": name,
                "plane": FORMS[form],
                "loss at the model": f"{base:.4g}" if np.isfinite(base) else "not finite",
                "largest": f"{z[np.isfinite(z)].max():.3g}" if np.isfinite(z).any() else "not finite",
                "within one nat": f"{np.mean(z < base + 1):.0%}",
                "reach": f"{x.max():.3g}",
                "points measured": str(int(own[own["model"] == name]["n"].notna().sum())),
                "not finite": str(int((~np.isfinite(z)).sum())),
            }
        )
    return pd.DataFrame(lines)
