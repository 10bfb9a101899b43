"""The learnt relative-position biases: what a head adds for a key at an offset, whatever the image."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, listed, options, pair, seeds
from fdlab.report.figures.averaged_maps import PROBE, drawn_blocks, matrix, panels, shown, small_multiples
from fdlab.report.style import MARK, PAPER, SHADES_OF_BLUE
from fdlab.report.summary import Facts, families, models, plain, rows

TITLE = "Learnt relative-position biases"
METRICS = ("relative_bias",)
SHADES = ListedColormap(list(reversed(SHADES_OF_BLUE))).with_extremes(bad=PAPER)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, PROBE, "relative_bias").empty


def edges(found: pd.DataFrame) -> np.ndarray:
    """(9,) equal steps that hold all values, the same above and below 0."""
    values = np.abs(found["value"].to_numpy(float))
    most = float(np.max(values[np.isfinite(values)], initial=1e-6))
    digits = 10.0 ** np.floor(np.log10(most))
    return np.linspace(-1, 1, 9) * float(np.ceil(most / digits * 2) / 2 * digits)


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A column a model and head, a row a block; the query is in the middle."""
    names = shown(table, facts, "relative_bias")
    found = rows(table, PROBE, "relative_bias")
    found = found[found["model"].isin(names)]
    steps = edges(found)
    figure, drawn, grid = small_multiples(found, names, SHADES, BoundaryNorm(steps, SHADES.N), steps[-1])
    for axes in grid.flat:
        if axes.axison:
            down, across = axes.images[0].get_array().shape
            axes.plot([(across - 1) / 2], [(down - 1) / 2], "+", color=MARK, ms=4, mew=0.9)
    bar = figure.colorbar(drawn, ax=grid, label="bias (logit), mean 0", shrink=0.8, aspect=30, ticks=steps[::2])
    bar.ax.set_yticklabels([f"{step:g}" for step in steps[::2]])
    bar.ax.minorticks_off()
    return figure


def _reach(values: np.ndarray) -> tuple[float, float]:
    """Largest less smallest bias, and the offset in patches of the largest."""
    if not np.isfinite(values).any():
        return math.nan, math.nan
    down, across = np.unravel_index(int(np.nanargmax(values)), values.shape)
    middle = (np.array(values.shape) - 1) / 2
    return float(np.nanmax(values) - np.nanmin(values)), float(np.hypot(down - middle[0], across - middle[1]))


def _last(own: pd.DataFrame) -> np.ndarray:
    """Range of the bias of the drawn heads of the last block."""
    block, heads = panels(own)[-1]
    return np.array([_reach(matrix(own, block, head))[0] for head in heads])


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = shown(table, facts, "relative_bias")
    found = rows(table, PROBE, "relative_bias")
    chosen = pair(names, families(table), facts) or (names[0],)
    parts = [f"{plain(_last(found[found['model'] == name]).max(), '.2g')} in {name}" for name in chosen]
    every = models(rows(table, PROBE), facts, PROBE)
    none = [name for name in every if name not in set(found["model"])]
    without = f"; {listed(none)} {'has' if len(none) == 1 else 'have'} no such bias" if none else ""
    return (
        "The learnt bias that is added to the attention logits for a key at each offset from its query, less its mean, "
        f"in {drawn_blocks(found)} for the head that looks nearest and the one that looks farthest"
        f"{seeds(facts)}{options(names, facts)}{without}.",
        "The cross is the query itself, a point right of it a key to its right, in patches; darker attracts, the scale "
        "is in logits and the same in every panel.",
        f"The largest difference between two offsets in the last block is {listed(parts)} logits, as the weights have "
        "it, without an interval.",
        caution(
            "Queries and keys add to these logits, so this is not the attention, and a model without the bias can "
            "learn the same pattern elsewhere",
            names,
            found,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text: the range of each drawn head's bias, and where it is largest."""
    found, lines = rows(table, PROBE, "relative_bias"), []
    for name in shown(table, facts, "relative_bias"):
        own = found[found["model"] == name]
        for block, heads in panels(own):
            for head in heads:
                width, distance = _reach(matrix(own, block, head))
                place = {"model": name, "block": str(block + 1), "head": str(head + 1)}
                lines.append(
                    place
                    | {"largest - smallest": plain(width, ".3g"), "patches to the largest": plain(distance, ".2g")}
                )
    return pd.DataFrame(lines)
