"""A model along its training: each measure over steps, with its interval at every step."""

from __future__ import annotations

from functools import cached_property

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from fdlab.records.estimate import Estimate
from fdlab.records.means import rows_of
from fdlab.records.metrics import METRICS
from fdlab.report.captions import counted, on_data
from fdlab.report.figures.figure import Figure, Lines
from fdlab.report.figures.layout import filled, label_outer, legend_of_models
from fdlab.report.numbers import show
from fdlab.report.report import estimate
from fdlab.report.style import WIDE, new_figure, wrap

# Measures of a panel and their titles, in the order in which they are taken; what a table has beyond MOST is left out.
LABELS = {
    "distance": "attention distance (px)",
    "entropy": "attention entropy / ln N",
    "head_similarity": "cosine between heads",
    "effective_rank": "effective rank",
    "token_similarity": "cosine of tokens",
    "knn": "k-NN accuracy",
    "linear_probe": "linear probe accuracy",
    "distance_spread": "spread over heads (px)",
    "nmi": "NMI of query and key",
    "r2_relative": "explained by the offset",
    "r2_absolute": "explained by the key",
    "high_frequency": "ln highest freq. / mean",
    "alignment": "alignment (0: same)",
    "uniformity": "uniformity (low: even)",
    "teacher_r2": "teacher_r2",
    "eigenvalue_1": "largest Hessian eigenvalue",
    "trace": "trace of the Hessian",
    "sharpness_average": "average rise of the loss",
    "sharpness_worst": "worst rise of the loss",
    "noise_to_rise": "noise to a rise of 0.1",
}
MOST, ACROSS = 12, 3


class OverSteps(Figure):
    """A small panel a measure, a line with its band a model."""

    probe, metric = "attention", "distance"
    trainings = False

    @cached_property
    def rows(self) -> pd.DataFrame:
        return self.report.stepped

    @cached_property
    def found(self) -> list[str]:
        """All the measures that the table has along a training."""
        known = set(self.rows[self.rows["value"].notna()]["metric"])
        return [metric for metric in LABELS if metric in known]

    @property
    def present(self) -> bool:
        return bool(self.found)

    @cached_property
    def known(self) -> list[str]:
        """The measures that have a panel."""
        return self.found[:MOST]

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the panels that there are."""
        return tuple(self.known)

    @cached_property
    def names(self) -> list[str]:
        return self.report.ordered(self.rows["model"])

    @cached_property
    def series(self) -> dict[tuple[str, str], pd.DataFrame]:
        """(measure, model) -> step, value, low, high."""
        shown = self.rows[self.rows["metric"].isin(self.known)]
        along = {
            (str(metric), str(name)): _along(rows)
            for (metric, name), rows in shown.groupby(["metric", "model"], sort=False)
        }
        return {place: data for place, data in along.items() if len(data)}

    def draw(self) -> Drawing:
        across = min(len(self.known), ACROSS)
        down = -(-len(self.known) // across)
        beside = down * across > len(self.known)  # an empty panel holds the legend
        height = 0.3 + 1.15 * down + (0.0 if beside or len(self.names) == 1 else 0.15 * -(-len(self.names) // 2))
        figure = new_figure(WIDE, height)
        grid = figure.subplots(down, across, squeeze=False, sharex=True)
        for number, axes, metric in filled(grid, self.known):
            for name in self.names:
                self._line(axes, metric, name)
            axes.set_title(wrap(LABELS[metric], 28, 1), loc="left")
            axes.locator_params(nbins=4)
            label_outer(axes, number, grid, len(self.known), "step")
        legend = legend_of_models(self.names, self.looks)
        if beside:
            grid.flat[-1].legend(*legend, loc="center left", fontsize=6.5, borderaxespad=0)
        else:
            figure.legend(*legend, loc="outside upper left", ncols=2)
        return figure

    def _line(self, axes: Axes, metric: str, name: str) -> None:
        data = self.series.get((metric, name))
        if data is None:
            return
        look = self.looks[name]
        axes.fill_between(data["step"], data["low"], data["high"], color=look.color, alpha=0.18, lw=0)
        axes.plot(data["step"], data["value"], ls=look.line, lw=1.0, **look.points(2.6 if len(data) <= 12 else 0))

    def terms(self) -> dict[str, object]:
        steps = sorted({int(step) for step in self.rows["step"]})
        return {
            "measures": counted(len(self.known), "measure").capitalize(),
            "ends": f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps ({steps[0]} to {steps[-1]})",
            "on_images": on_data(self.report, self.rows.drop(columns="step")),
            "late": any(self.rows[self.rows["metric"].isin(self.known)]["block"].notna()),
            "missing": ", ".join(METRICS[metric].label for metric in self.found[MOST:]),
        }

    def shows(self) -> str:
        """The first measure at the first and the last step; no interval of the change is known, so none is stated."""
        metric, parts = self.known[0], []
        for name in self.names[:2]:
            data = self.series.get((metric, name))
            if data is None:
                continue
            first, last = (self._at(data, metric, place) for place in (0, -1))
            parts.append(f"{first} and {last} ({name})" if len(data) > 1 else f"{first} ({name})")
        return self.say("values", quantity=METRICS[metric].label, numbers="; ".join(parts))

    def _at(self, data: pd.DataFrame, metric: str, place: int) -> str:
        row = data.iloc[place]
        value = Estimate(row["value"], row["low"], row["high"])
        return f"{show(value, metric, unit=True)} at step {int(row['step'])}"

    def lines(self) -> Lines:
        for name in self.names:
            of = {metric: self.series[metric, name] for metric in self.known if (metric, name) in self.series}
            for step in sorted({int(step) for data in of.values() for step in data["step"]}):
                line = {"model": name, "step": str(step)} | dict.fromkeys((LABELS[m] for m in self.known), "–")
                for metric, data in of.items():
                    for row in data[data["step"] == step].itertuples():
                        line[LABELS[metric]] = show(Estimate(row.value, row.low, row.high), metric)  # type: ignore[arg-type]
                yield line


def _along(rows: pd.DataFrame) -> pd.DataFrame:
    """One measure of one model by step: the mean over the last half of the blocks, or the whole model's number."""
    rows = rows[rows["objective"] == rows["objective"].iloc[0]]  # one pooling, one loss
    by_block = rows[rows["block"].notna()]
    kept = rows_of(by_block) if len(by_block) else rows
    numbers = [(int(step), estimate(kept[kept["step"] == step])) for step in sorted(kept["step"].unique())]
    return pd.DataFrame(
        [(step, one.value, one.low, one.high) for step, one in numbers if one.known],
        columns=["step", "value", "low", "high"],
        dtype=float,  # also where no step has a value
    )
