"""Does a map depend on where the key lies from the query, on the key alone, on the query at all?"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fdlab.records.metrics import find_metric
from fdlab.report.captions import Caption, caution, late_comparison, on_data, options, seeds
from fdlab.report.style import INK, WIDE, bars, block_ticks, looks_of, new_figure, wrap
from fdlab.report.summary import Facts, by_block, late_mean, models, plain, rows, show

TITLE = "Relative or absolute: what attention depends on"
METRICS = ("r2_relative", "r2_absolute", "nmi")


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return not (rows(table, "attention", "r2_relative").empty or rows(table, "attention", "r2_absolute").empty)


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """Left: one point a model, means over the last half of the blocks. Right: NMI by block."""
    names = models(rows(table, "attention", "r2_relative"), facts, "attention")
    look = looks_of(table, facts)
    nmi = not rows(table, "attention", "nmi").empty
    columns = 3 if len(names) > 4 else 2
    height = 2.35 + 0.24 * -(-len(names) // columns)
    figure = new_figure(WIDE, height)
    left, right = figure.subplots(1, 2)
    handles = []
    for name in names:
        across, up = late_mean(table, "r2_relative", name), late_mean(table, "r2_absolute", name)
        handle = left.errorbar(
            [across.value],
            [up.value],
            xerr=bars(across),
            yerr=bars(up),
            ls="",
            elinewidth=0.8,
            label=wrap(name, 27, 2),
            **look[name].points(5.5),
        )
        handles.append(handle)
        if nmi:
            data = by_block(table, "nmi", name)
            size = 4 if len(data) <= 6 else 3
            right.errorbar(
                data["block"],
                data["value"],
                yerr=bars(data),
                ls=look[name].line,
                lw=1,
                elinewidth=0.7,
                **look[name].points(size),
            )
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=find_metric("r2_relative").label)
    left.set_ylabel(find_metric("r2_absolute").label)
    left.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    left.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    left.set_title("last half of the blocks", loc="left")
    right.set_title("by block", loc="left")
    right.set(xlabel="block", ylabel=find_metric("nmi").label)
    right.set_ylim(bottom=0)
    if nmi:
        block_ticks(right, int(rows(table, "attention", "nmi")["block"].max()) + 1)
    else:
        right.text(0.5, 0.5, "not measured", ha="center", transform=right.transAxes, color=INK)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.4)
    return figure


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names = models(rows(table, "attention", "r2_relative"), facts, "attention")
    own = rows(table, "attention", "r2_relative")
    return (
        "Share of a head's attention map that is explained by the offset from query to key (r2_relative) "
        "and by the "
        "key's position alone (r2_absolute), and the normalised mutual information of query and key, "
        "averaged over "
        f"{on_data(own, facts)}{seeds(facts)}{options(names, facts)}.",
        "Left, one point a model: to the right, maps that move with the query; up, maps that are the same "
        "for every "
        "query; on the right, an NMI of 0 means that all queries attend alike, as in uniform attention; bars are "
        "95 % intervals over images.",
        late_comparison(table, facts, "r2_relative", "share explained by the offset"),
        caution(
            "A map can be neither, both shares are undefined for exactly uniform attention, and NMI tells "
            "collapsed "
            "maps from others but never local ones from random ones",
            names,
            table,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines = []
    for name in models(rows(table, "attention", "r2_relative"), facts, "attention"):
        line = {"model": name}
        for kind in ("r2_relative", "r2_absolute", "nmi"):
            line[f"{kind}, last half of the blocks"] = show(late_mean(table, kind, name), kind)
        nmi = by_block(table, "nmi", name)
        line["nmi by block"] = ", ".join(plain(value) for value in nmi["value"])
        lines.append(line)
    return pd.DataFrame(lines)
