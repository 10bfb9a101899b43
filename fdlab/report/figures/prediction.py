"""Which measures rank models as their fine-tuning does: Kendall's tau-b with interval, a row a measure."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.compare.significance import ALPHA
from fdlab.records.metrics import METRICS
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.style import FAINT, INK, PAPER, WIDE, new_figure, wrap

MOST = 24  # rows that are drawn; the numbers have all


class Prediction(Figure):
    """A row a measure, clearest first: dot and interval, the range without one family behind, p at the right."""

    metrics = ("kendall_tau", "kendall_one_out", "kendall_family_out", "kendall_p", "kendall_p_holm")
    probe, metric = "predict", "kendall_tau"
    trainings = False

    @cached_property
    def names(self) -> list[str]:
        return [name for name in dict.fromkeys(self.report.rows(self.probe)["model"]) if name]

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """One row a measure: measure, n, tau, low, high, p, holm, one_low, one_high, family_low, family_high."""
        of = {metric: self.report.rows(self.probe, metric).set_index("objective") for metric in self.metrics}
        tau = of["kendall_tau"]
        ranks = pd.DataFrame({"tau": tau["value"], "low": tau["low"], "high": tau["high"], "n": tau["n"]})
        ranks["p"], ranks["holm"] = of["kendall_p"]["value"], of["kendall_p_holm"]["value"]
        for name in ("one", "family"):
            for end in ("low", "high"):
                ranks[f"{name}_{end}"] = of[f"kendall_{name}_out"][end]
        return ranks.rename_axis("measure").reset_index()

    @property
    def score(self) -> str:
        """What the measures are ranked against."""
        return self.report.facts.score or "the fine-tuning score"

    def draw(self) -> Drawing:
        shown = self.ranks.head(MOST)
        figure = new_figure(WIDE, 0.75 + 0.22 * len(shown))
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=0.7, zorder=1)
        for row, rank in enumerate(shown.to_dict("records")):
            _row(axes, row, rank)
        axes.text(1.03, -1, "p (Holm)", va="center", fontsize=6.5, transform=axes.get_yaxis_transform())
        axes.set_yticks(range(len(shown)), [wrap(_label(name), 30, 2) for name in shown["measure"]], fontsize=6)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-1.04, 1.04)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(f"Kendall's tau-b with {self.score} (95 %)")
        return figure

    def terms(self) -> dict[str, object]:
        ranks, models = self.ranks, int(self.ranks["n"].max())
        least = 2 / math.factorial(models)  # the smallest p that so few models allow, that of a perfect ranking
        return {
            "count": models,
            "measures": len(ranks),
            "cut": len(ranks) > MOST,
            "most": MOST,
            "least": least,
            "enough": least <= ALPHA,
            "clear": int((ranks["holm"] <= ALPHA).sum()),  # measures that are told from 0
            "best": _label(ranks["measure"].iloc[0]),
            "best_interval": _interval(ranks.iloc[0]),
        }

    def lines(self) -> Lines:
        for rank in self.ranks.to_dict("records"):
            yield {
                "measure": _label(rank["measure"]),
                "models": str(rank["n"]),
                "tau-b (95 %)": _interval(rank),
                "without one model": _range(rank, "one"),
                "without one family": _range(rank, "family"),
                "p": f"{rank['p']:.2g}",
                "p (Holm)": f"{rank['holm']:.2g}",
            }


def _row(axes: Axes, row: int, rank: dict[Any, Any]) -> None:
    for left_out, height, shade in (("family", 0.62, "none"), ("one", 0.3, FAINT)):
        low, high = rank[f"{left_out}_low"], rank[f"{left_out}_high"]
        if math.isfinite(low):
            axes.barh(row, high - low, height, left=low, color=shade, edgecolor=FAINT, lw=0.7, zorder=2)
    if math.isfinite(rank["low"]):
        axes.plot([rank["low"], rank["high"]], [row, row], color=INK, lw=1, zorder=3, solid_capstyle="butt")
    filling = INK if rank["holm"] <= ALPHA else PAPER
    axes.plot([rank["tau"]], [row], "o", ms=4.5, color=INK, mfc=filling, mew=0.9, zorder=4)
    axes.text(1.03, row, f"{rank['holm']:.2g}", va="center", fontsize=6.5, transform=axes.get_yaxis_transform())


def _label(name: str) -> str:
    return METRICS[name].label if name in METRICS else name


def _interval(rank: Any) -> str:
    return f"{rank['tau']:+.2f} ({rank['low']:+.2f} to {rank['high']:+.2f})"


def _range(rank: dict[Any, Any], left_out: str) -> str:
    low, high = float(rank[f"{left_out}_low"]), float(rank[f"{left_out}_high"])
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "–"
