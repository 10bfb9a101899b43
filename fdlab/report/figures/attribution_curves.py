"""The score while cells of an image are removed or added: does a ranking of the cells beat chance?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fdlab.records.metrics.names import ORDERS
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import bands
from fdlab.report.numbers import show
from fdlab.report.report import Report, along
from fdlab.report.style import COLUMN, INK, PAPER, WIDE, new_figure, wrap

KINDS = {"deletion": "score left", "insertion": "score there"}
ACROSS = 4
CHANCE = (0, (4, 2.5))


class AttributionCurves(Figure):
    """A column a model: deletion above insertion, a line an order, the random one dashed in ink."""

    metrics = ("deletion_curve_gradients", "insertion_curve_gradients", "deletion_gain_gradients")
    probe, metric, fewer = "attribution", "deletion_curve_random", True

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.orders = [name for name in ORDERS if report.has(self.probe, f"deletion_curve_{name}")]
        self.best = next((name for name in self.orders if name != "random"), None)
        if self.best is not None:
            self.headline = f"deletion_gain_{self.best}"

    def draw(self) -> Drawing:
        down, across = bands(len(self.names), ACROSS)
        height = 0.35 + 2.4 * down + (0.35 if across == 1 else 0)
        figure = new_figure(COLUMN if across == 1 else WIDE, height)
        grid = figure.subplots(2 * down, across, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat:
            axes.set_axis_off()
        seen = [0.0, 1.0]
        for number, name in enumerate(self.names):
            for line, (kind, label) in enumerate(KINDS.items()):
                row, column = 2 * (number // across) + line, number % across
                axes = grid[row, column]
                axes.set_axis_on()
                seen += self._panel(axes, name, kind)
                if line == 0:
                    axes.set_title(wrap(name, 20, 2), loc="left")
                else:
                    axes.set_xlabel("share of cells")
                axes.tick_params(labelbottom=line == 1, labelleft=column == 0)
                if column == 0:
                    axes.set_ylabel(label)
        axes = grid[0, 0]
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        room = 0.04 * (max(seen) - min(seen))
        axes.set_ylim(min(seen) - room, max(seen) + room)
        handles = [_handle(order, INK) for order in self.orders]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles) if across > 1 else 2)
        return figure

    def _panel(self, axes: Axes, name: str, kind: str) -> list[float]:
        """Draws a model's curves; returns the drawn values, for the common scale."""
        drawn: list[float] = []
        for order in self.orders:
            curve = along(self.of(name, f"{kind}_curve_{order}"), name).dropna(subset=["value"])
            if curve.empty:
                continue
            style = _handle(order, INK if order == "random" else self.looks[name].color)
            band = curve.dropna(subset=["low", "high"])
            axes.fill_between(band["x"], band["low"], band["high"], color=style.get_color(), alpha=0.14, lw=0)
            axes.plot(
                curve["x"], curve["value"], ls=style.get_linestyle(), color=style.get_color(),
                lw=style.get_linewidth(), marker=style.get_marker(), ms=2.4, mfc=style.get_markerfacecolor(), mew=0.7,
            )  # fmt: skip
            drawn += curve["value"].tolist()
        if not drawn:
            axes.annotate("undefined", (0.5, 0.5), xycoords="axes fraction", ha="center", fontsize=6.5)
        return drawn

    def shows(self) -> str:
        """The gain over chance of the first ranking, compared or alone."""
        if self.best is not None:
            return super().shows()
        area = self.whole("deletion_area_random", self.names[0])
        return self.say("only_random", area=show(area, "deletion_area_random"), name=self.names[0])

    def terms(self) -> dict[str, object]:
        return {
            "undefined": without_shares(self.rows, self.names),
            "ranking": ORDERS.get(self.best or ""),
            "against_chance": self._against_chance(),
        }

    def _against_chance(self) -> str:
        gain = self.value(self.names[0])
        if not gain.bounded:
            return "without an interval, it cannot be compared with chance"
        if gain.low > 0:
            return "better than chance"
        return "worse than chance" if gain.high < 0 else "not clearly different from chance"

    def lines(self) -> Lines:
        """Areas and gains of every model and order."""
        for name in self.names:
            for order in self.orders:
                line = {"model": name, "order": ORDERS[order]}
                for kind in KINDS:
                    for what in ("area", "gain"):
                        metric = f"{kind}_{what}_{order}"
                        text = show(self.whole(metric, name), metric)
                        line[f"{kind}, {what}"] = text if what == "area" or order != "random" else "–"
                yield line


def _handle(order: str, color: str) -> Line2D:
    """How an order is drawn: filled points, hollow points, or the dashed line of chance."""
    if order == "random":
        return Line2D([], [], color=color, lw=0.8, ls=CHANCE, label=ORDERS[order])
    hollow = order == "rollout"
    return Line2D(
        [], [], color=color, lw=1.0, ls=":" if hollow else "-", marker="s" if hollow else "o", ms=2.8,
        mfc=PAPER if hollow else color, label=ORDERS[order],
    )  # fmt: skip


def without_shares(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The models whose score images do not raise beyond chance."""
    return [name for name in names if rows.loc[rows["model"] == name, "value"].isna().all()]
