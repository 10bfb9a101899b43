"""Where heads look on average over the images: small maps, models side by side."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, compared, listed, on_images, options, pair, seeds
from fdlab.report.style import COLUMN, PAPER, SHADES_OF_BLUE, WIDE, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, estimate, families, models, plain, rows, show, trained

TITLE = "Attention maps averaged over images"
METRICS = ("attention_map", "r2_relative_of_mean", "r2_absolute_of_mean", "entropy_of_mean", "nmi_of_mean")
PROBE = "attention_maps"
MOST = 3  # models side by side: above, maps are too small to see stripes
EDGES = (0, 1 / 4, 1 / 2, 4 / 5, 5 / 4, 2, 4, 8, 64)  # times uniform; what lies above the last is drawn like it
SHADES = ListedColormap(list(reversed(SHADES_OF_BLUE))).with_extremes(bad=PAPER)


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not rows(table, PROBE, "attention_map").empty


def shown(table: pd.DataFrame, facts: Facts, metric: str = "attention_map") -> list[str]:
    """At most ``MOST`` models: the compared pair, an untrained control, then the others in their order."""
    found = rows(table, PROBE, metric)
    names = models(found, facts, PROBE)
    family = families(table)
    controls = [name for name in names if name not in trained(names, family)][:1]
    kept = list(dict.fromkeys([*(pair(names, family, facts) or ()), *controls, *names]))[:MOST]
    return [name for name in names if name in kept]


def panels(own: pd.DataFrame) -> list[tuple[int, list[int]]]:
    """(block, heads as the probe chose them: smallest distance first) of one model, from the first block."""
    found = own[["block", "head"]].drop_duplicates()
    return [(int(block), [int(head) for head in part["head"]]) for block, part in found.groupby("block")]


def matrix(own: pd.DataFrame, block: int, head: int) -> np.ndarray:
    """(y, x) of one head; several seeds as their mean."""
    kept = own[(own["block"] == block) & (own["head"] == head)]
    return kept.pivot_table(index="y", columns="x", values="value", dropna=False).to_numpy(float)


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A column a model and head, a row a block."""
    names = shown(table, facts)
    norm = BoundaryNorm(EDGES, SHADES.N)
    figure, drawn, grid = small_multiples(rows(table, PROBE, "attention_map"), names, SHADES, norm, EDGES[-1])
    bar = figure.colorbar(drawn, ax=grid, label="attention / uniform", shrink=0.8, aspect=30, ticks=EDGES)
    bar.ax.set_yticklabels(["0", "1/4", "1/2", "4/5", "5/4", "2", "4", "8", "more"])
    bar.ax.minorticks_off()
    return figure


def small_multiples(
    found: pd.DataFrame, names: list[str], shades: ListedColormap, norm: Any, most: float
) -> tuple[Figure, Any, Any]:
    """The figure, the last picture drawn (for a bar of its shades) and all axes."""
    of = {name: found[found["model"] == name] for name in names}
    places = {name: panels(of[name]) for name in names}
    heads = max(len(chosen) for kept in places.values() for _, chosen in kept)
    down = max(len(kept) for kept in places.values())
    across = heads * len(names)
    width = COLUMN if across < 3 else WIDE
    side = min((width - 1.0) / across, 1.25)
    figure = new_figure(width, 0.3 + down * (side + (0.27 if across > 4 else 0.17)))
    grid = figure.subplots(down, across, squeeze=False)
    drawn: Any = None
    for number, name in enumerate(names):
        for row in range(down):
            block, chosen = places[name][row] if row < len(places[name]) else (0, [])
            for column in range(heads):
                axes = cast(Axes, grid[row, number * heads + column])
                if column >= len(chosen):
                    axes.set_axis_off()
                    continue
                values = np.ma.masked_invalid(matrix(of[name], block, chosen[column]))
                drawn = axes.imshow(
                    np.clip(values, -most, most * (1 - 1e-9)), cmap=shades, norm=norm, interpolation="none"
                )
                _label(
                    axes, f"block {block + 1}\nhead {chosen[column] + 1}" if across > 4 else "", block, chosen[column]
                )
        _name(cast(Axes, grid[0, number * heads]), name, heads)
    return figure, drawn, grid


def _label(axes: Axes, text: str, block: int, head: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text or f"block {block + 1}, head {head + 1}", fontsize=6, labelpad=1.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name(axes: Axes, name: str, heads: int) -> None:
    """Above the first of a model's columns, over all of them."""
    axes.set_title(wrap(name, 13 * heads, 2), loc="left")


def drawn_blocks(found: pd.DataFrame) -> str:
    """Which blocks the probe chose: of all that were asked for, the first, the middle and the last."""
    count = found.loc[found["metric"].isin(["attention_map", "relative_bias"]), "block"].nunique()
    return f"the {listed(['first', 'middle', 'last'][:count] if count != 2 else ['first', 'last'])} block"


def _late(table: pd.DataFrame, metric: str, name: str) -> Estimate:
    """Mean over the heads of the last block."""
    found = rows(table, PROBE, metric)
    own = found[found["model"] == name]
    return estimate(own[own["block"] == own["block"].max()])


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = shown(table, facts)
    own = rows(table, PROBE)
    own = own[own["model"].isin(names)]
    chosen = pair(names, families(table), facts)
    quantity = "share of the mean maps explained by the offset, over the heads of the last block,"
    if chosen is None:
        value = show(_late(table, "r2_relative_of_mean", names[0]), "r2_relative")
        shows = f"The {quantity} is {value} in {names[0]}; there is no second model."
    else:
        values = (
            _late(table, "r2_relative_of_mean", chosen[0]),
            _late(table, "r2_relative_of_mean", chosen[1]),
        )
        shows = compared(quantity, "r2_relative", values, chosen)
    every = models(rows(table, PROBE, "attention_map"), facts, PROBE)
    missing = [name for name in every if name not in names]
    without = f"; not drawn: {listed(missing)}" if missing else ""
    return (
        "Attention of every part of the image (rows) to every part (columns), patches in reading order, averaged over "
        f"{on_images(own, facts)}, in {drawn_blocks(own)} for the head that looks nearest and the one that "
        f"looks farthest{seeds(facts)}{options(names, facts)}{without}.",
        "Darker is more, in multiples of uniform attention: stripes along the diagonal move with the query, vertical "
        "stripes are the same keys for every query, the shade from 4/5 to 5/4 is nearly uniform.",
        shows,
        caution(
            "What differs between images is averaged away, so a pale map may hide sharp ones, and two heads of many "
            "are drawn",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text: of each drawn head, what its mean map is, and its largest cell."""
    found, lines = rows(table, PROBE, "attention_map"), []
    for name in shown(table, facts):
        own = found[found["model"] == name]
        for block, heads in panels(own):
            for head in heads:
                line = {"model": name, "block": str(block + 1), "head": str(head + 1)}
                for metric in METRICS[1:]:
                    kept = rows(table, PROBE, metric)
                    kept = kept[(kept["model"] == name) & (kept["block"] == block) & (kept["head"] == head)]
                    line[metric.removesuffix("_of_mean")] = show(estimate(kept), metric.removesuffix("_of_mean"))
                line["largest / uniform"] = plain(np.fmax.reduce(matrix(own, block, head), axis=None), ".3g")
                lines.append(line)
    return pd.DataFrame(lines)
