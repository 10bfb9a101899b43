"""Which measures rank the models as their fine-tuning does: tau-b over lineages, and within them, a row a measure."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.compare.kendall import smallest_p
from fdlab.compare.significance import ALPHA
from fdlab.records.metrics import METRICS
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import row_a_model
from fdlab.report.style import FAINT, INK, PAPER, WIDE, new_figure

MOST = 12  # rows that are drawn; the numbers have all


class Ranking(Figure):
    """A row a measure: those that differ from 0 first, then by p; left over lineages, right within them."""

    metrics = (
        *("kendall_tau", "kendall_lineage_out", "kendall_p", "kendall_p_holm", "kendall_within"),
        *("kendall_concordant", "kendall_discordant", "kendall_within_p", "kendall_within_p_holm"),
    )
    probe, metric = "rank", "kendall_p_holm"
    trainings = False

    @cached_property
    def names(self) -> list[str]:
        return [name for name in dict.fromkeys(self.report.rows(self.probe)["model"]) if name]

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """One row a measure: measure, n (lineages), tau, low, high, p, holm, without_low, without_high, inside, ..."""
        of = {metric: self.report.rows(self.probe, metric).set_index("objective") for metric in self.metrics}
        ranks = pd.DataFrame({"holm": of["kendall_p_holm"]["value"], "n": of["kendall_p_holm"]["n"]})
        ranks["p"] = of["kendall_p"]["value"]
        for column, metric, end in (
            *((end, "kendall_tau", end) for end in ("low", "high")),
            *((f"without_{end}", "kendall_lineage_out", end) for end in ("low", "high")),
            ("tau", "kendall_tau", "value"),
            ("inside", "kendall_within", "value"),
            ("inside_holm", "kendall_within_p_holm", "value"),
            ("concordant", "kendall_concordant", "value"),
            ("discordant", "kendall_discordant", "value"),
        ):
            ranks[column] = of[metric][end]  # NaN where a measure has no such row
        ranks = ranks.rename_axis("measure").reset_index()
        enough = ranks["n"].map(lambda n: smallest_p(int(n)) * self.tests <= ALPHA)
        hangs = ranks["without_low"] * ranks["without_high"] <= 0  # on one lineage, without which it is gone
        ranks["told"] = enough & (ranks["holm"] <= ALPHA) & ~hangs
        ranks["told_inside"] = enough & (ranks["inside_holm"] <= ALPHA)
        ranks["said"] = ranks["told"] | ranks["told_inside"]
        return ranks.sort_values("said", ascending=False, kind="stable").reset_index(drop=True)

    @cached_property
    def tests(self) -> int:
        """How many p values Holm's correction is over."""
        rows = [self.report.rows(self.probe, metric) for metric in ("kendall_p", "kendall_within_p")]
        return sum(int(part["value"].notna().sum()) for part in rows)

    @property
    def score(self) -> str:
        """What the measures are ranked against."""
        return self.report.facts.score or "the fine-tuning score"

    def draw(self) -> Drawing:
        shown = self.ranks.head(MOST)
        figure = new_figure(WIDE, 0.75 + 0.22 * len(shown))
        panels = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        row_a_model(panels, [_label(name) for name in shown["measure"]], 34)
        for axes, label in zip(panels, ("over lineages (95 %)", "within lineages"), strict=True):
            axes.axvline(0, color=INK, lw=0.7, zorder=1)
            axes.set_xlim(-1.06, 1.06)
            axes.set_xlabel(f"tau-b {label}")
        for row, rank in enumerate(shown.to_dict("records")):
            _over(panels[0], row, rank)
            _inside(panels[1], row, rank)
        said = int(shown["said"].sum())
        if 0 < said < len(shown):  # below the line: not shown to differ from 0
            for axes in panels:
                axes.axhline(said - 0.5, color=FAINT, lw=0.7)
        return figure

    def terms(self) -> dict[str, object]:
        ranks, lineages = self.ranks, int(self.ranks["n"].max())
        said = ranks[ranks["said"]]
        largest = max(
            ranks[ranks["inside"].notna()].to_dict("records"), key=lambda rank: abs(rank["inside"]), default=None
        )
        return {
            "count": len(self.names),
            "lineages": lineages,
            "kin": largest is not None,
            "measures": len(ranks),
            "cut": len(ranks) > MOST,
            "most": MOST,
            "enough": smallest_p(lineages) * self.tests <= ALPHA,
            "least": smallest_p(lineages),
            "clear": len(said),  # measures that differ from 0
            "clearest_said": ", ".join(_said(rank) for rank in said.head(5).to_dict("records")),
            "inside_said": _pairs(largest) if largest is not None else "",
        }

    def lines(self) -> Lines:
        for rank in self.ranks.to_dict("records"):
            low, high = rank["without_low"], rank["without_high"]
            yield {
                "measure": _label(rank["measure"]),
                "lineages": str(rank["n"]),
                "tau-b over lineages (95 %)": _interval(rank),
                "without one lineage": f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "–",
                "within lineages (pairs for : against)": _counts(rank),
                "differs from 0 after Holm": " and ".join(
                    side for side, told in (("over", rank["told"]), ("within", rank["told_inside"])) if told
                )
                or "no",
            }


def _over(axes: Axes, row: int, rank: dict[Any, Any]) -> None:
    """The tau over lineages: its interval, and behind it the range when any one lineage is left out."""
    if math.isfinite(rank["without_low"]):
        width = rank["without_high"] - rank["without_low"]
        axes.barh(row, width, 0.5, left=rank["without_low"], color=FAINT, edgecolor=FAINT, lw=0.7, zorder=2)
    if math.isfinite(rank["low"]):
        axes.plot([rank["low"], rank["high"]], [row, row], color=INK, lw=1, zorder=3, solid_capstyle="butt")
    if math.isfinite(rank["tau"]):
        axes.plot([rank["tau"]], [row], "o", ms=4.5, color=INK, mfc=INK if rank["told"] else PAPER, mew=0.9, zorder=4)


def _inside(axes: Axes, row: int, rank: dict[Any, Any]) -> None:
    """The tau within lineages, with the pairs that speak for and against it."""
    if not math.isfinite(rank["inside"]):
        return
    filling = INK if rank["told_inside"] else PAPER
    axes.plot([rank["inside"]], [row], "D", ms=4, color=INK, mfc=filling, mew=0.9, zorder=4)
    counts = f"{rank['concordant']:.0f}:{rank['discordant']:.0f}"
    axes.text(1.04, row, counts, va="center", fontsize=6.5, transform=axes.get_yaxis_transform())


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _interval(rank: Any) -> str:
    if not math.isfinite(rank["tau"]):
        return "–"
    return f"{rank['tau']:+.2f} ({rank['low']:+.2f} to {rank['high']:+.2f})"


def _counts(rank: Any) -> str:
    if not math.isfinite(rank["inside"]):
        return "–"
    return f"{rank['inside']:+.2f} ({rank['concordant']:.0f}:{rank['discordant']:.0f})"


def _pairs(rank: Any) -> str:
    """``Hessian trace -0.67 (3 pairs for, 15 against)``."""
    counts = f"{rank['concordant']:.0f} pairs for, {rank['discordant']:.0f} against"
    return f"{_label(rank['measure'])} {rank['inside']:+.2f} ({counts})"


def _said(rank: Any) -> str:
    over, inside = f"{rank['tau']:+.2f} over lineages", f"{rank['inside']:+.2f} within them"
    kept = [text for text, told in ((over, rank["told"]), (inside, rank["told_inside"])) if told]
    return f"{_label(rank['measure'])} {' and '.join(kept)}"
