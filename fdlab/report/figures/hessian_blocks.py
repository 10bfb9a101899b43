"""Curvature block by block: where in a model the loss is sharp."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fdlab.report.captions import Caption, caution, options, seeds
from fdlab.report.figures.hessian_spectrum import whole
from fdlab.report.style import WIDE, bars, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, models, rows, show

TITLE = "Curvature of each block"
METRICS = ("eigenvalue_1", "trace")
SHOWN = {"eigenvalue_1": "largest eigenvalue", "trace": "trace"}


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return bool(rows(table, "hessian", "eigenvalue_1")["block"].notna().any())


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A panel a quantity, a group of bars a block, a bar a model; E is what comes before the blocks."""
    names, look = _names(table, facts), looks_of(table, facts)
    places = _places(table)
    figure = new_figure(WIDE, 2.1)
    grid = figure.subplots(1, len(SHOWN))
    width = 0.8 / len(names)
    for axes, (metric, label) in zip(grid, SHOWN.items(), strict=True):
        for number, name in enumerate(names):
            at = [place + (number - (len(names) - 1) / 2) * width for place in range(len(places))]
            found = [_value(table, metric, name, place) for place in places]
            data = pd.DataFrame(found, columns=["value", "low", "high", "n"])
            own = look[name]
            axes.bar(
                at, data["value"], width * 0.92, yerr=bars(data), color=own.color if own.fill else "none",
                edgecolor=own.color, lw=0.7, error_kw={"elinewidth": 0.6}, label=wrap(name, 22, 2),
            )  # fmt: skip
        axes.set_xticks(range(len(places)), ["E" if place is None else str(place + 1) for place in places])
        axes.set_xlabel("block")
        axes.set_ylabel(label)
        axes.set_yscale("log")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(names), 3))
    return figure


def _names(table: pd.DataFrame, facts: Facts) -> list[str]:
    top = rows(table, "hessian", "eigenvalue_1")
    return models(top[top["block"].notna()], facts, "hessian")


def _places(table: pd.DataFrame) -> list[int | None]:
    blocks = rows(table, "hessian", "eigenvalue_1")["block"].dropna().unique()
    first: list[int | None] = [None] if not rows(table, "hessian", "eigenvalue_1_embedding").empty else []
    return first + sorted(int(block) for block in blocks)


def _value(table: pd.DataFrame, metric: str, model: str, block: int | None) -> Estimate:
    if block is None:
        return whole(table, f"{metric}_embedding", model)
    own = rows(table, "hessian", metric)
    own = own[(own["model"] == model) & (own["block"] == block)]
    if own.empty:
        return Estimate(float("nan"), float("nan"), float("nan"))
    first = own.iloc[0]
    return Estimate(float(first["value"]), float(first["low"]), float(first["high"]))


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = _names(table, facts)
    top = rows(table, "hessian", "eigenvalue_1")
    top = top[top["block"].notna()]
    peaks = []
    for name in names:
        values = {block: _value(table, "eigenvalue_1", name, block) for block in _places(table) if block is not None}
        known = [block for block, value in values.items() if value.known]
        if known:
            peak = max(known, key=lambda block: values[block].value)
            peaks.append(f"block {peak + 1} in {name} ({values[peak].value:.3g})")
    return (
        "Largest eigenvalue and trace of the diagonal block of the Hessian that belongs to each transformer block: "
        f"{top['objective'].iloc[0]}{seeds(facts)}{options(names, facts)}.",
        "E is the patch embedding with tokens and positions; no block's eigenvalue can exceed the whole model's, and "
        "bars on the traces are 95 % intervals over random probes.",
        f"The sharpest is {'; '.join(peaks)}." if peaks else "No block has a known value.",
        caution(
            "A scale moved from one layer to the next moves curvature between them while the function stays, and "
            "curvature between blocks is left out",
            names,
            top,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    return pd.DataFrame(
        [
            {
                "model": name,
                "block": "embedding" if place is None else str(place + 1),
                **{label: show(_value(table, metric, name, place), metric) for metric, label in SHOWN.items()},
            }
            for name in _names(table, facts)
            for place in _places(table)
        ]
    )
