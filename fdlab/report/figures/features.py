"""What the tokens of every block are like: rank, frequency, likeness, alignment and uniformity over depth."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fdlab.report.captions import Caption, caution, late_comparison, listed, on_data, options, seeds
from fdlab.report.style import WIDE, Look, bars, looks_of, new_figure, wrap
from fdlab.report.summary import Estimate, Facts, by_block, families, models, rows, show

TITLE = "Features over the depth of a model"
METRICS = ("effective_rank", "high_frequency", "token_similarity", "alignment", "uniformity")
LABELS = {
    "effective_rank": "effective rank",
    "high_frequency": "ln highest freq. / mean",
    "token_similarity": "cosine of tokens",
    "alignment": "alignment (0: same)",
    "uniformity": "uniformity (low: even)",
}
WORDS = {
    "effective_rank": "effective rank",
    "high_frequency": "log amplitude of the highest spatial frequency against the mean",
    "token_similarity": "cosine between the tokens of an image",
    "alignment": "squared distance between two views",
    "uniformity": "uniformity",
}
ACROSS = 3


def _known(table: pd.DataFrame) -> list[str]:
    return [metric for metric in METRICS if rows(table, "features", metric)["value"].notna().any()]


def present(table: pd.DataFrame) -> bool:
    """Whether the table has the rows of this figure."""
    return bool(_known(table))


def _names(table: pd.DataFrame, facts: Facts) -> list[str]:
    kept = rows(table, "features")
    return models(kept[kept["metric"].isin(METRICS)], facts, "features")


def draw(table: pd.DataFrame, facts: Facts) -> Figure:
    """A panel a measure, a line a model, untrained models in grey."""
    names, look, known = _names(table, facts), looks_of(table, facts), _known(table)
    down = -(-len(known) // ACROSS)
    across = min(len(known), ACROSS)
    beside = down * across - len(known)  # an empty panel holds the legend
    legend = 0.15 * len(names) if not beside else 0.0
    figure = new_figure(WIDE, 0.35 + 1.35 * down + legend)
    grid = figure.subplots(down, across, squeeze=False, sharex=True)
    for place, axes in enumerate(grid.flat):
        if place >= len(known):
            axes.set_axis_off()
            continue
        for name in names:
            _line(
                axes, by_block(table, known[place], name, "features"), look[name], families(table).get(name) == "random"
            )
        axes.set_title(LABELS[known[place]], loc="left")
        axes.set_xlim(0, 1.07)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        if place + across >= len(known):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("relative depth")
    handles = [Line2D([], [], ls=look[name].line, **look[name].points(3.5)) for name in names]
    labels = [wrap(name, 24, 2) for name in names]
    if beside:
        grid.flat[-1].legend(handles, labels, loc="center left", fontsize=6.5, borderaxespad=0)
    else:
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _line(axes: Axes, data: pd.DataFrame, look: Look, control: bool) -> None:
    style = look.points(3.2 if len(data) <= 6 else 2.2)
    axes.errorbar(
        data["depth"], data["value"], yerr=bars(data), ls=look.line, lw=1.0, elinewidth=0.7,
        zorder=2 if control else 3, **style,
    )  # fmt: skip


def caption(table: pd.DataFrame, facts: Facts) -> Caption:
    """What, how to read, what it shows here, what not to conclude."""
    names, known, family = _names(table, facts), _known(table), families(table)
    grey = ", grey is untrained" if any(family.get(name) == "random" for name in names) else ""
    own = rows(table, "features")
    ranked = "effective_rank" in known
    return (
        f"{listed([WORDS[metric] for metric in known]).capitalize()} of the patch tokens that leave each block, over "
        f"{on_data(own, facts)}{seeds(facts)}{options(names, facts)}.",
        f"Each line is a model from its first block to its last, bars are 95 % intervals over images{grey}.",
        late_comparison(table, facts, known[0], WORDS[known[0]], "features"),
        caution(
            ("The rank is bounded by the number of images and is high for random noise too, so " if ranked else "")
            + ("n" if ranked else "N")
            + "o measure here is a quality by itself, and none compares across other images or image counts",
            names,
            own,
            facts,
        ),
    )


def numbers(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """The figure's numbers as text."""
    lines, known = [], _known(table)
    for name in _names(table, facts):
        series = {metric: by_block(table, metric, name, "features").set_index("block") for metric in known}
        for block in sorted(set().union(*(data.index for data in series.values()))):
            line = {"model": name, "block": str(block)}
            for metric, data in series.items():
                there = block in data.index
                line[LABELS[metric]] = (
                    show(Estimate(*data.loc[block, ["value", "low", "high"]]), metric) if there else "–"
                )
            lines.append(line)
    return pd.DataFrame(lines)
