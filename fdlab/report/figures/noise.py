"""The loss under growing noise: a line a model, the same directions for all."""

from __future__ import annotations

from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import REFERENCE_LINE, log_ticks
from fdlab.report.numbers import spanned
from fdlab.report.report import along
from fdlab.report.style import COLUMN, new_figure, wrap

RISE = 0.1  # of the loss, at which the noise is read


class Noise(Figure):
    """Both axes logarithmic: a quadratic is a straight line of slope two."""

    metrics = ("noise_curve", "noise_to_rise")
    probe, metric, headline = "sharpness", "noise_curve", "noise_to_rise"
    level = RISE

    def draw(self) -> Drawing:
        figure = new_figure(COLUMN, 2.1 + 0.15 * -(-len(self.names) // 2))
        axes = figure.subplots()
        risen = self.rows[self.rows["value"] > 0]
        for name in self.names:
            curve, look = along(risen, name), self.looks[name]
            axes.plot(curve["x"], curve["value"], ls=look.line, lw=1.0, label=wrap(name, 24, 2), **look.points(3.4))
            band = curve[curve["low"].notna()]
            low = band["low"].clip(lower=1e-6)
            axes.fill_between(band["x"], low, band["high"], color=look.color, alpha=0.15, lw=0)
        axes.axhline(RISE, **REFERENCE_LINE)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(1e-3, float(risen["value"].min()) / 2))
        log_ticks(axes.xaxis, (1, 2, 5), 8)
        axes.set_xlabel("noise, in lengths of each filter")
        axes.set_ylabel("rise of the loss (nats)")
        figure.legend(loc="outside lower center", ncols=2)
        return figure

    def lines(self) -> Lines:
        curve = self.rows.sort_values(["model", "x"]).dropna(subset=["value"])
        columns = (curve[name] for name in ("model", "x", "value", "low", "high"))
        for model, x, *rise in zip(*columns, strict=True):
            yield {"model": model, "noise": f"{x:.3g}", "rise (95 %)": spanned(Estimate(*rise))}
