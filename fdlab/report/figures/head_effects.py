"""What the score loses without each head, block by block: a panel a model and a dot a head."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.figures.attribution_curves import without_shares
from fdlab.report.figures.figure import Lines
from fdlab.report.figures.heads import OfHeads
from fdlab.report.figures.layout import REFERENCE_LINE
from fdlab.report.numbers import show
from fdlab.report.report import BOUNDED, estimate
from fdlab.report.style import FAINT, PAPER, bars, block_ticks

FEW = 48  # heads of a panel whose intervals can be told apart


class HeadEffects(OfHeads):
    """One scale for all panels."""

    metrics = ("head_effect_share", "head_effect")
    probe, metric, late, fewer = "attribution", "head_effect_share", True, True
    label, band, scale = "drop / score (%)", 1.6, 100.0

    def draw(self) -> Drawing:
        figure, across, grid = self.grid(sharey=True)
        for axes, name in self.panels(grid):
            self._panel(axes, name)
        self.legend(figure, across, uniform=False, controls=self.any_control)
        return figure

    def _panel(self, axes: Axes, name: str) -> None:
        look, heads, control = self.looks[name], self.of(name), self.control(name)
        axes.axhline(0, **REFERENCE_LINE, zorder=1)
        block_ticks(axes, int(heads["block"].max()) + 1)
        if control is not None:
            grey = self.of(control)
            axes.plot(_beside(grey), 100 * grey["value"], "o", color=FAINT, ms=2.6, mew=0)
        if heads["value"].isna().all():
            axes.annotate("undefined", (0.5, 0.6), xycoords="axes fraction", ha="center", fontsize=6.5)
            return
        axes.errorbar(
            _beside(heads), 100 * heads["value"], yerr=100 * bars(heads) if len(heads) <= FEW else None, ls="",
            elinewidth=0.6, marker=look.marker, color=look.color, ms=3.2, mfc=look.color if look.fill else "none",
            mec=PAPER if look.fill else look.color, mew=0.3 if look.fill else 0.6,
        )  # fmt: skip
        self.mean_line(axes, self.report.by_block(self.metric, name, self.probe))

    @property
    def any_control(self) -> bool:
        """Whether grey dots stand behind some panel."""
        known = set(self.rows.dropna(subset=["value"])["model"])
        return any(self.report.control_of(name, known) for name in self.shown)

    def terms(self) -> dict[str, object]:
        barred = any(len(self.of(name)) <= FEW for name in self.shown)
        return super().terms() | {"undefined": without_shares(self.rows, self.names), "barred": barred}

    def lines(self) -> Lines:
        """Of each block the mean over heads, and the head that the score needs most."""
        for name in self.names:
            for block, heads in self.of(name).groupby("block"):
                mean = show(estimate(heads), self.metric)
                line = {"model": name, "block": str(int(str(block)) + 1), "heads, mean (%)": mean}
                known = heads.dropna(subset=["value"])
                if known.empty:
                    yield line | {"most needed head": "–", "its drop (%)": "undefined"}
                    continue
                most = known.sort_values("value", kind="stable").iloc[-1]
                drop = show(Estimate(*most[list(BOUNDED)]), self.metric)
                yield line | {"most needed head": str(int(most["head"]) + 1), "its drop (%)": drop}


def _beside(heads: pd.DataFrame) -> pd.Series:
    """Heads of a block side by side, in their order, so that their intervals do not cover each other."""
    most = max(int(heads["head"].max()), 1)
    return heads["block"].astype(float) + 1 + 0.5 * (heads["head"].astype(float) / most - 0.5)
