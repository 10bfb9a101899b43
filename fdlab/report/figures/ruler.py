"""The measure tested on data whose attention distance is known beforehand: measured against ideal."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.captions import listed
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import REFERENCE_LINE
from fdlab.report.numbers import plain, show
from fdlab.report.report import estimate
from fdlab.report.style import COLUMN, FAINT, INK, LINEAGES, PAPER, bars, new_figure

COLOR = LINEAGES[0][0].color


class Ruler(Figure):
    """Pixels against the dial ALPHA."""

    metrics = ("distance", "entropy")
    probe, metric = "ruler", "distance_weighted"
    trainings = False

    @property
    def present(self) -> bool:
        return self.report.has("ruler", "distance_weighted") and self.report.has("ruler", "distance_ideal")

    @property
    def dials(self) -> list[float]:
        """The values of ALPHA, from the lowest."""
        return sorted(self.rows["x"].unique())

    def at(self, dial: float, metric: str) -> pd.DataFrame:
        """The rows of a metric at one dial."""
        found = self.report.rows(self.probe, metric)
        return found[found["x"] == dial]

    def draw(self) -> Drawing:
        measured = self.rows.sort_values("x")
        ideal = self.report.rows("ruler", "distance_ideal").groupby("x", as_index=False)["value"].mean()
        heads = self.report.rows("ruler", "distance")
        heads = heads[heads["head"].notna()]
        figure = new_figure(COLUMN, 2.6)
        axes = figure.subplots()
        if len(heads):
            beside = heads["x"] + 0.03  # beside the mean, not under it
            axes.plot(beside, heads["value"], "o", ms=3.2, mew=0, color=FAINT, label="a head of block 1")
        axes.plot(ideal["x"], ideal["value"], color=INK, lw=1.0, label="ideal")
        axes.errorbar(
            measured["x"], measured["value"], yerr=bars(measured), ls="", marker="D", ms=5, mfc=PAPER, mew=1.2,
            color=COLOR, elinewidth=1.1, label="measured, block 1",
        )  # fmt: skip
        uniform = self.report.facts.ruler_uniform_px
        if uniform is not None:
            axes.axhline(uniform, **REFERENCE_LINE, zorder=1, label="uniform attention")
        axes.set(xlabel="ALPHA, share of images with far twins", ylabel="attention distance (px)")
        axes.set_xlim(-0.08, 1.08)
        axes.set_ylim(bottom=0)
        dials = sorted(ideal["x"].unique())
        axes.set_xticks(dials, [f"{dial:g}" for dial in dials])
        figure.legend(loc="outside upper center", ncols=2)
        return figure

    def shows(self) -> str:
        text = listed([self._end(dial) for dial in dict.fromkeys((self.dials[0], self.dials[-1]))])
        return f"{text[0].upper()}{text[1:]}."

    def _end(self, dial: float) -> str:
        measured, ideal = (estimate(self.at(dial, f"distance_{kind}")) for kind in ("weighted", "ideal"))
        if not (measured.known and ideal.known):
            return self.say("undefined", dial=dial)
        text, uniform = show(measured, "distance", unit=True), self._against_uniform(measured)
        outside = measured.bounded and not measured.low <= ideal.value <= measured.high
        holds = ", outside of its interval" if outside else ""
        return self.say("at_dial", dial=dial, measured=text, ideal=ideal.value, holds=holds, uniform=uniform)

    def _against_uniform(self, measured: Estimate) -> str:
        uniform = self.report.facts.ruler_uniform_px
        if uniform is None or not measured.bounded:
            return ""
        side = "above" if measured.low > uniform else "below" if measured.high < uniform else "not clearly apart from"
        return f", {side} the uniform {uniform:.1f} px"

    def terms(self) -> dict[str, object]:
        counts = self.rows["n"].dropna()
        tested = f", {int(counts.max())} test images a setting" if len(counts) else ""
        options = sorted({o for name in self.rows["model"] for o in self.report.facts.options.get(name, ())})
        unlike = f"; not the paper's setting: {'; '.join(options)} in every model" if options else ""
        return {"count": len(self.dials), "tested": tested, "options": unlike}

    def lines(self) -> Lines:
        for dial in self.dials:
            yield {
                "ALPHA": f"{dial:g}",
                "ideal (px)": show(estimate(self.at(dial, "distance_ideal")), "distance"),
                "measured (px, 95 %)": show(estimate(self.at(dial, "distance_weighted")), "distance"),
                "heads (px)": ", ".join(plain(value, ".1f") for value in self.at(dial, "distance")["value"]),
                "entropy of the heads": ", ".join(plain(value) for value in self.at(dial, "entropy")["value"]),
            }
