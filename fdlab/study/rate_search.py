"""A search of the best learning rate: every model fine-tuned at each rate with each seed, and what came out of it.

Each fine-tuning is a run folder, so a search is continued. ``fdlab trainability`` and the two-factor study share this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.measures.trainability import Width, lr_width, smoothed, steps_to
from fdlab.records.means import means_over_seeds
from fdlab.records.run_folder import RunFolder, slug
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import stage
from fdlab.study.parallel import Job

PROBE = "trainability"
ACCURACIES = ("accuracy", "validation_accuracy")


@dataclass(frozen=True)
class Start:
    """A model from which fine-tunings with one seed begin.

    Args:
        source: what opens the model (SOURCE).
        overrides: settings that this model's fine-tunings need and others do not.
        needs: names of the jobs that come before. after: runs without whose result no fine-tuning can begin.
    """

    label: str
    source: str
    seed: int
    family: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return slug(self.label)

    @property
    def name(self) -> str:
        """Label and seed as a folder's name, by the rule that the folders of earlier searches have."""
        return re.sub(r"[^\w.]", "-", self.label).strip("-") + f"_seed-{self.seed}"

    @property
    def row(self) -> dict[str, Any]:
        """The columns that name this model and seed in the table."""
        return {"model": self.label, "family": self.family, "seed": self.seed}

    @property
    def settings(self) -> dict[str, Any]:
        """What a fine-tuning is told of this model; the seed also draws the labelled images."""
        seeds = {"run.seed": self.seed, "data.label_seed": self.seed}
        return {"classify.model": self.source, **seeds, **self.overrides}


@dataclass(frozen=True)
class Search:
    """Fine-tunings at every learning rate of a grid.

    Args:
        folder: all runs lie below it.
        rates: the grid.
        path: a run's folder, as a format of ``start`` and ``rate``.
    """

    folder: Path
    rates: Sequence[float]
    path: str = "{start.name}/lr-{rate:g}"

    def run(self, start: Start, rate: float) -> RunFolder:
        """The run of one model, seed and learning rate."""
        return RunFolder(self.folder / self.path.format(start=start, rate=rate))

    def jobs(self, starts: Iterable[Start], recipe: str, overrides: Mapping[str, Any], cost: int = 0) -> dict[str, Job]:
        """One fine-tuning a model, seed and rate; ``cost`` of each in the unit of the other jobs (0: its steps)."""
        return {
            f"{start.name} {rate:g}": stage.job(
                recipe,
                str(self.run(start, rate).path),
                {**overrides, **start.settings, "optim.lr": rate},
                label=start.label,
                family=start.family,
                needs=start.needs,
                after=start.after,
                cost=cost,
            )
            for start in starts
            for rate in self.rates
        }

    def failed(self, start: Start, rate: float) -> bool:
        """Whether this fine-tuning has no result because it, or a run it needs, diverged."""
        return bool(stage.failure(str(self.run(start, rate).path), start.after))

    def complete(self, start: Start) -> bool:
        """Whether every rate has ended, well or not: an unfinished search has no best rate."""
        return all(self.run(start, rate).finished or self.failed(start, rate) for rate in self.rates)

    def best_rate(self, start: Start) -> float | None:
        """The rate of the highest validation accuracy (ties: the lower final loss); None if every run diverged.

        The test images choose nothing: an accuracy chosen on the images that judge it would be too high.
        """
        facts = {rate: self.run(start, rate).facts() for rate in self.rates}
        known = {rate: run for rate, run in facts.items() if "validation_accuracy" in run}
        return max(known, key=lambda r: (known[r]["validation_accuracy"], -known[r]["final_loss"]), default=None)

    def collect(self, starts: Sequence[Start]) -> tuple[pd.DataFrame, list[str]]:
        """The rows of all finished fine-tunings, by seed and then as means with t-intervals; and notes for the page.

        Rows of probe ``trainability``: ``accuracy``, ``validation_accuracy`` and ``diverged`` with the rate in ``x``;
        ``best_accuracy``, ``best_rate``, ``lr_width`` and ``steps_to_loss`` for each model and seed.
        """
        tried = ((start, rate) for start in starts for rate in sorted(self.rates))
        rows = [row for start, x in tried for row in outcome(self.run(start, x), start, {"probe": PROBE, "x": x})]
        notes: list[str] = []
        for label in dict.fromkeys(start.label for start in starts):
            seeds = [start for start in starts if start.label == label]
            complete = [start for start in seeds if self.complete(start)]
            if left := len(seeds) - len(complete):
                notes.append(f"{label}: the search of {left} seed{'s' if left > 1 else ''} is not finished.")
            widths = [(start, width) for start in complete if (width := self._width(start)) is not None]
            rows += [row for start, width in widths for row in self._best(start, width)]
            notes += _open_ends(label, [width for _, width in widths])
        rows += self._paces(starts)
        table = frame(rows)
        return join([table, means_over_seeds(table)]), notes

    def _width(self, start: Start) -> Width | None:
        rates = sorted(self.rates)
        shares = [_accuracy(self.run(start, rate).facts()) for rate in rates]
        return None if np.isnan(shares).all() else lr_width(rates, shares)

    def _best(self, start: Start, width: Width) -> list[dict[str, Any]]:
        best = self.best_rate(start)
        accuracy = _accuracy(self.run(start, best).facts()) if best else float("nan")
        results = (("best_accuracy", accuracy, ""), ("best_rate", best, ""), ("lr_width", width.decades, "decades"))
        common = {**start.row, "probe": PROBE}
        return [{**common, "metric": metric, "value": value, "unit": unit} for metric, value, unit in results]

    def _paces(self, starts: Sequence[Start]) -> list[dict[str, Any]]:
        """``steps_to_loss``: for each seed, the steps to the highest of the models' final losses."""
        curves: dict[int, dict[str, tuple[Start, np.ndarray, np.ndarray]]] = {}
        for start in starts:
            if self.complete(start) and (best := self.best_rate(start)) is not None:
                steps, losses = loss_curve(self.run(start, best))
                curves.setdefault(start.seed, {})[start.label] = (start, steps, smoothed(losses))
        rows = []
        for models in curves.values():
            target = max(float(losses[-1]) for _, _, losses in models.values())
            for start, steps, losses in models.values():
                pace = {"metric": "steps_to_loss", "value": steps_to(steps, losses, target), "unit": "steps"}
                rows.append({**start.row, "probe": PROBE, **pace})
        return rows


def outcome(
    run: RunFolder, start: Start, columns: Mapping[str, Any], metrics: Sequence[str] = ACCURACIES
) -> list[dict[str, Any]]:
    """The rows of one fine-tuning: whether it diverged, and its accuracies with their intervals where it did not.

    There are none while it has not ended. ``columns`` are those that all rows share.
    """
    common, failed = {**start.row, **columns}, bool(stage.failure(str(run.path), start.after))
    rows = [{**common, "metric": "diverged", "value": float(failed)}] if run.finished or failed else []
    table = Record.load(run.path / "record").table if run.finished else frame([])
    for line in table[table["metric"].isin(metrics)].to_dict("records"):
        bounds = {} if np.isnan(line["low"]) else {"low": line["low"], "high": line["high"], "n": int(line["n"])}
        rows.append({**common, "metric": line["metric"], "value": line["value"], **bounds})
    return rows


def _accuracy(facts: Mapping[str, Any]) -> float:
    return int(facts["correct"]) / int(facts["count"]) if facts.get("count") else float("nan")


def _open_ends(label: str, widths: Sequence[Width]) -> list[str]:
    """A sentence where the grid ended before the range of good rates did."""
    ends = {"lowest": sum(w.open_below for w in widths), "highest": sum(w.open_above for w in widths)}
    where = [f"{side} rate of the grid in {count} of {len(widths)} seeds" for side, count in ends.items() if count]
    return [f"{label}: lr_width is a lower bound, it reaches the {' and the '.join(where)}."] if where else []


def loss_curve(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """(steps, losses) as logged: each loss is the mean over the steps since the line before."""
    lines = [line for line in run.read_log() if line.get("loss") is not None]
    return np.array([line["step"] for line in lines]), np.array([line["loss"] for line in lines])
