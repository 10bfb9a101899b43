"""Which blocks arrange the images alike: CKA within every model and between every two models."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, on_data, options, pair, seeds
from fdlab.report.style import COLUMN, PAPER, SHADES_OF_BLUE, WIDE, new_figure, wrap
from fdlab.report.summary import UNKNOWN, Estimate, Facts, estimate, families, models, rows, show, trained

TITLE = "Which blocks are alike (CKA)"
METRICS = ("cka",)
MOST = 4  # models side by side: above, panels of twelve blocks are too small to read
EDGES = (0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1)  # finer near 1, where most blocks lie; the same in every figure
NUMBERS_UP_TO = 4  # blocks: then the value stands in its cell
ON_DARK, ON_LIGHT = SHADES_OF_BLUE[-1], SHADES_OF_BLUE[0]  # as the shades, the same on light and dark pages
SHADES = ListedColormap(list(reversed(SHADES_OF_BLUE))).with_extremes(bad=PAPER)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure: models of one block each have none."""
    return bool((rows(table, "features", "cka")["reference"] == "").any())


def shown(table: pd.DataFrame, facts: Facts) -> list[str]:
    """At most ``MOST`` models: the compared pair, an untrained control, then the others in their order."""
    found = rows(table, "features", "cka")
    names = models(found[found["reference"] == ""], facts, "features")
    family = families(table)
    first = list(pair(names, family, facts) or ())
    controls = [name for name in names if name not in trained(names, family)][:1]
    kept = list(dict.fromkeys([*first, *controls, *names]))[:MOST]
    return [name for name in names if name in kept]


def matrix(table: pd.DataFrame, down: str, across: str) -> np.ndarray:
    """(blocks of ``down``, blocks of ``across``); of one model with its mirror image and ones on the diagonal."""
    found = rows(table, "features", "cka")
    other = "" if down == across else across
    own = found[(found["model"] == down) & (found["reference"] == other)]
    if own.empty:
        turned = found[(found["model"] == across) & (found["reference"] == down)]
        return _square(turned).T if len(turned) else np.full((1, 1), math.nan)
    if down != across:
        return _square(own)
    size = int(own["x"].max()) + 1
    filled = np.eye(size)
    for block, x, value in own.groupby(["block", "x"], as_index=False)["value"].mean().to_numpy(float):
        filled[int(block), int(x)] = filled[int(x), int(block)] = value
    return filled


def _square(own: pd.DataFrame) -> np.ndarray:
    return own.pivot_table(index="block", columns="x", values="value", dropna=False).to_numpy(float)


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A triangle of matrices: models with themselves on the diagonal, with each other below it."""
    names = shown(table, facts)
    count = len(names)
    width = COLUMN if count < 3 else WIDE
    side = (width - 0.75) / count
    figure = new_figure(width, 0.55 + count * (min(side, 2.0) + 0.12))
    grid = figure.subplots(count, count, squeeze=False)
    drawn: Any = None
    for row, across in np.ndindex(count, count):
        axes = cast(Axes, grid[row, across])
        if across > row:
            axes.set_axis_off()
            continue
        drawn = _panel(axes, matrix(table, names[row], names[across]))
        if across == row:
            axes.set_title(wrap(names[across], 17 if count > 2 else 20, 2), loc="left")
        if across == 0:
            axes.set_ylabel(wrap(names[row], 17 if count > 2 else 22, 2))
        if row == count - 1:
            axes.set_xlabel("block")
    bar = figure.colorbar(drawn, ax=grid, label="CKA", shrink=0.7, aspect=30, ticks=EDGES, spacing="uniform")
    bar.ax.set_yticklabels([f"{edge:g}" for edge in EDGES])
    bar.ax.minorticks_off()
    return figure


def _panel(axes: Axes, values: np.ndarray) -> Any:
    down, across = values.shape
    places = (np.arange(across + 1) + 0.5, np.arange(down + 1) + 0.5)
    norm = BoundaryNorm(EDGES, SHADES.N)
    drawn = axes.pcolormesh(*places, np.ma.masked_invalid(values).clip(0, 1 - 1e-9), cmap=SHADES, norm=norm)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xticks(_ticks(across))
    axes.set_yticks(_ticks(down))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if max(values.shape) <= NUMBERS_UP_TO:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                text = f"{value:.2f}".replace("-0.00", "0.00")
                color = ON_DARK if value > 0.8 else ON_LIGHT
                axes.text(j + 1, i + 1, text, ha="center", va="center", fontsize=6, color=color)
    return drawn


def _ticks(blocks: int) -> list[int]:
    return list(range(1, blocks + 1)) if blocks <= 4 else sorted({1, (blocks + 1) // 2, blocks})


def cell(table: pd.DataFrame, down: str, across: str, block: int, x: int) -> Estimate:
    """One value with its interval, blocks from 0; unknown where the table has no such row."""
    found = rows(table, "features", "cka")
    for one, other, i, j in ((down, across, block, x), (across, down, x, block)):
        reference = "" if one == other else other
        kept = found[(found["model"] == one) & (found["reference"] == reference)]
        kept = kept[(kept["block"] == i) & (kept["x"] == j)]
        if len(kept):
            return estimate(kept)
    return UNKNOWN


def _ends(table: pd.DataFrame, name: str) -> Estimate:
    return cell(table, name, name, 0, len(matrix(table, name, name)) - 1)


def _last(table: pd.DataFrame, first: str, second: str) -> Estimate:
    sizes = [len(matrix(table, name, name)) - 1 for name in (first, second)]
    return cell(table, first, second, *sizes)


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = shown(table, facts)
    own = rows(table, "features", "cka")
    left = [name for name in models(own, facts, "features") if name not in names]
    without = f"; left out for room: {len(left)} models" if left else ""
    chosen = pair(names, families(table), facts)
    if chosen is None:
        alone = show(_ends(table, names[0]), "cka")
        shows = f"The CKA of the first and the last block is {alone} in {names[0]}; there is no second model."
    else:
        ends = (_ends(table, chosen[0]), _ends(table, chosen[1]))
        shows = compared("CKA of the first and the last block", "cka", ends, chosen).rstrip(".")
        between = _last(table, *chosen)
        shows += f"; the last blocks of the two have {show(between, 'cka')}." if between.known else "."
    below = ", below it each block of the model on the left with each of the model above" if len(names) > 1 else ""
    return (
        f"Linear CKA between blocks (unbiased, groups of 32 images, all patch tokens), over {on_data(own, facts)}"
        f"{seeds(facts)}{options(names, facts)}{without}.",
        f"Panels on the diagonal compare a model's blocks with each other{below}; dark is alike, in steps that "
        "are finer near 1, and values below 0 are drawn as 0.",
        shows,
        caution(
            "CKA rests on the few directions of largest variance and untrained models reach high values too, so alike "
            "here is not the same function, and unlike is not better or worse",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """First with last block of each model, last with last block of every two, with intervals."""
    names = shown(table, facts)
    lines = [{"models": name, "blocks": "first, last", "CKA (95 %)": show(_ends(table, name), "cka")} for name in names]
    for place, second in enumerate(names):
        for first in names[:place]:
            value = _last(table, first, second)
            if value.known:
                lines.append({"models": f"{first}, {second}", "blocks": "last, last", "CKA (95 %)": show(value, "cka")})
    return pd.DataFrame(lines)
