"""Does a map depend on where the key lies from the query, on the key alone, on the query at all?"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.metrics import find_metric
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.numbers import plain, show
from fdlab.report.style import INK, WIDE, bars, block_ticks, new_figure, wrap


class Position(Figure):
    """Left: one point a model, means over the last half of the blocks. Right: NMI by block."""

    metrics = ("r2_relative", "r2_absolute", "nmi")
    probe, metric, late = "attention", "r2_relative", True

    @property
    def present(self) -> bool:
        return self.report.has("attention", "r2_relative") and self.report.has("attention", "r2_absolute")

    def draw(self) -> Drawing:
        columns = 3 if len(self.names) > 4 else 2
        figure = new_figure(WIDE, 2.35 + 0.24 * -(-len(self.names) // columns))
        left, right = figure.subplots(1, 2)
        handles = []
        for name in self.names:
            handles.append(self._point(left, name))
            self._line(right, name)
        left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=find_metric("r2_relative").label)
        left.set_ylabel(find_metric("r2_absolute").label)
        left.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        left.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        left.set_title("last half of the blocks", loc="left")
        right.set_title("by block", loc="left")
        right.set(xlabel="block", ylabel=find_metric("nmi").label)
        right.set_ylim(bottom=0)
        nmi = self.report.rows("attention", "nmi")
        if len(nmi):
            block_ticks(right, int(nmi["block"].max()) + 1)
        else:
            right.text(0.5, 0.5, "not measured", ha="center", transform=right.transAxes, color=INK)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.4)
        return figure

    def _point(self, axes: Axes, name: str) -> object:
        across, up = self.report.late_mean("r2_relative", name), self.report.late_mean("r2_absolute", name)
        return axes.errorbar(
            [across.value], [up.value], xerr=bars(across), yerr=bars(up), ls="", elinewidth=0.8,
            label=wrap(name, 27, 2), **self.looks[name].points(5.5),
        )  # fmt: skip

    def _line(self, axes: Axes, name: str) -> None:
        data = self.report.by_block("nmi", name)
        if len(data):
            axes.errorbar(
                data["block"], data["value"], yerr=bars(data), ls=self.looks[name].line, lw=1, elinewidth=0.7,
                **self.looks[name].points(4 if len(data) <= 6 else 3),
            )  # fmt: skip

    def lines(self) -> Lines:
        for name in self.names:
            line = {"model": name}
            for metric in self.metrics:
                line[f"{metric}, last half of the blocks"] = show(self.report.late_mean(metric, name), metric)
            line["nmi by block"] = ", ".join(plain(value) for value in self.report.by_block("nmi", name)["value"])
            yield line
