"""Loss and accuracy on the straight line from one model to another."""

from __future__ import annotations

from matplotlib.figure import Figure as Drawing

from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.report import along
from fdlab.report.style import COLUMN, WIDE, new_figure, wrap


class Interpolation(Figure):
    """A line a starting model; loss left, accuracy right where it is known."""

    metrics = ("loss_interpolation", "accuracy_interpolation")
    probe, metric = "landscape", "loss_interpolation"

    def draw(self) -> Drawing:
        metrics = [metric for metric in self.metrics if self.report.has(self.probe, metric)]
        figure = new_figure(WIDE if len(metrics) > 1 else COLUMN, 2.0 + 0.16 * -(-len(self.names) // 3))
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            for name in self.names:
                curve, look = along(self.of(name, metric), name), self.looks[name]
                label = wrap(name, 24, 2) if metric == metrics[0] else None
                axes.plot(curve["x"], curve["value"], ls=look.line, lw=1.0, label=label, **look.points(3.2))
            axes.set_xlabel("share of the way")
            axes.set_ylabel("loss (nats)" if metric == self.metric else "accuracy")
            axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=min(len(self.names), 3))
        return figure

    def barrier(self, name: str) -> float:
        """The highest loss on the way above the straight line between the ends' losses (Frankle et al. 2020)."""
        curve = along(self.rows, name)
        first, last = float(curve["value"].iloc[0]), float(curve["value"].iloc[-1])
        return float((curve["value"] - (first + (last - first) * curve["x"])).max())

    def terms(self) -> dict[str, object]:
        heights = {name: self.barrier(name) for name in self.names}
        texts = [f"{f'{h:.2g} nats' if h == h else 'unknown'} from {name}" for name, h in heights.items()]
        return {"barriers": ", ".join(texts)}

    def lines(self) -> Lines:
        known = self.report.rows(self.probe, "accuracy_interpolation")
        right = dict(zip(zip(known["model"], known["x"], strict=True), known["value"], strict=True))
        for model, x, value in zip(self.rows["model"], self.rows["x"], self.rows["value"], strict=True):
            loss = f"{value:.4g}" if value == value else "not finite"
            accuracy = f"{right[model, x]:.3f}" if right.get((model, x), float("nan")) >= 0 else "–"
            yield {"model": model, "share of the way": f"{x:.3g}", "loss": loss, "accuracy": accuracy}
