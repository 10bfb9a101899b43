"""A search of the best learning rate: every model fine-tuned at each rate with each seed, and what came out of it.

Each fine-tuning is a run folder, so a search is continued. ``fdlab trainability`` and the two-factor study share this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.measures.trainability import Width, lr_width, smoothed, steps_to
from fdlab.records.intervals import t_interval
from fdlab.records.run_folder import RunFolder, slug
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import stage
from fdlab.study.parallel import Job

PROBE = "trainability"


@dataclass(frozen=True)
class Start:
    """A model from which a fine-tuning with one seed begins; ``overrides`` are its own settings."""

    label: str
    source: str
    seed: int
    family: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of this start's folder."""
        return f"{slug(self.label)}_seed-{self.seed}"


def run_of(folder: Path, start: Start, rate: float) -> RunFolder:
    """The run of one model, seed and learning rate."""
    return RunFolder(folder / start.name / f"lr-{rate:g}")


def jobs(
    starts: Iterable[Start], rates: Sequence[float], folder: Path, recipe: str, overrides: Mapping[str, Any], cost: int
) -> dict[str, Job]:
    """One fine-tuning a model, seed and rate; ``cost`` of each, in the unit of the other jobs (0: its steps)."""
    made = {}
    for start in starts:
        for rate in rates:
            own = {"classify.model": start.source, "run.seed": start.seed, "data.label_seed": start.seed}
            made[f"{start.name} {rate:g}"] = stage.job(
                recipe,
                str(run_of(folder, start, rate).path),
                {**overrides, **own, **start.overrides, "optim.lr": rate},
                label=start.label,
                family=start.family,
                needs=start.needs,
                after=start.after,
                cost=cost,
            )
    return made


def _failed(folder: Path, start: Start, rate: float) -> bool:
    return bool(stage.failure(str(run_of(folder, start, rate).path), start.after))


def complete(folder: Path, start: Start, rates: Sequence[float]) -> bool:
    """Whether every rate of the search has ended, well or not: an unfinished search has no best rate."""
    return all(run_of(folder, start, rate).finished or _failed(folder, start, rate) for rate in rates)


def best_rate(folder: Path, start: Start, rates: Sequence[float]) -> float | None:
    """The rate of the highest validation accuracy (ties: the lower final loss); None where every run diverged."""
    known = {rate: run_of(folder, start, rate).facts() for rate in rates}
    known = {rate: facts for rate, facts in known.items() if "validation_accuracy" in facts}
    return max(known, key=lambda r: (known[r]["validation_accuracy"], -known[r]["final_loss"]), default=None)


def collect(folder: Path, starts: Sequence[Start], rates: Sequence[float]) -> tuple[pd.DataFrame, list[str]]:
    """The rows of all finished fine-tunings, a seed each and then their means with t-intervals; and what to say.

    Rows of probe ``trainability``: ``accuracy``, ``validation_accuracy`` and ``diverged`` with the rate in ``x``;
    ``best_accuracy``, ``best_rate``, ``lr_width`` and ``steps_to_loss`` a model and seed.
    """
    rates = sorted(rates)
    rows: list[dict[str, Any]] = []
    said: list[str] = []
    for start in starts:
        rows += _by_rate(folder, start, rates)
    for label in dict.fromkeys(start.label for start in starts):
        own = [start for start in starts if start.label == label and complete(folder, start, rates)]
        if left := sum(start.label == label for start in starts) - len(own):
            said.append(f"{label}: the search of {left} seed{'s' if left > 1 else ''} is not finished.")
        found = [(start, _width(folder, start, rates)) for start in own]
        known = [(start, width) for start, width in found if width is not None]
        for start, width in known:
            rows += _best(folder, start, rates, width)
        said += _open_ends(label, [width for _, width in known])
    rows += _paces(folder, starts, rates)
    table = frame(rows)
    return join([table, means_over_seeds(table)]), said


def _common(start: Start) -> dict[str, Any]:
    return {"model": start.label, "family": start.family, "seed": start.seed, "probe": PROBE}


def _by_rate(folder: Path, start: Start, rates: Sequence[float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rate in rates:
        run, common = run_of(folder, start, rate), {**_common(start), "x": rate}
        failed = _failed(folder, start, rate)
        if not (run.finished or failed):
            continue
        rows.append({**common, "metric": "diverged", "value": float(failed)})
        if run.finished:
            own = Record.load(run.path / "record").table
            for line in own[own["metric"].isin(["accuracy", "validation_accuracy"])].itertuples():
                bounds = {} if np.isnan(line.low) else {"low": line.low, "high": line.high, "n": int(line.n)}
                rows.append({**common, "metric": line.metric, "value": line.value, **bounds})
    return rows


def _width(folder: Path, start: Start, rates: Sequence[float]) -> Width | None:
    accuracies = [_accuracy(run_of(folder, start, rate).facts()) for rate in rates]
    return None if np.isnan(accuracies).all() else lr_width(rates, accuracies)


def _best(folder: Path, start: Start, rates: Sequence[float], width: Width) -> list[dict[str, Any]]:
    best = best_rate(folder, start, rates)
    accuracy = _accuracy(run_of(folder, start, best).facts()) if best else float("nan")
    found = {"best_accuracy": (accuracy, ""), "best_rate": (best, ""), "lr_width": (width.decades, "decades")}
    return [{**_common(start), "metric": name, "value": value, "unit": unit} for name, (value, unit) in found.items()]


def _open_ends(label: str, widths: Sequence[Width]) -> list[str]:
    """A sentence where the grid ended before the range of good rates did."""
    ends = {"lowest": sum(w.open_below for w in widths), "highest": sum(w.open_above for w in widths)}
    where = [f"{side} rate of the grid in {count} of {len(widths)} seeds" for side, count in ends.items() if count]
    return [f"{label}: lr_width is a lower bound, it reaches the {' and the '.join(where)}."] if where else []


def _accuracy(facts: Mapping[str, Any]) -> float:
    return int(facts["correct"]) / int(facts["count"]) if facts.get("count") else float("nan")


def _paces(folder: Path, starts: Sequence[Start], rates: Sequence[float]) -> list[dict[str, Any]]:
    """``steps_to_loss``: for each seed, the steps to the highest of the models' final losses."""
    curves: dict[int, dict[str, tuple[Start, np.ndarray, np.ndarray]]] = {}
    for start in starts:
        best = best_rate(folder, start, rates) if complete(folder, start, rates) else None
        if best is not None:
            steps, losses = loss_curve(run_of(folder, start, best))
            curves.setdefault(start.seed, {})[start.label] = (start, steps, smoothed(losses))
    rows = []
    for own in curves.values():
        target = max(float(losses[-1]) for _, _, losses in own.values())
        for start, steps, losses in own.values():
            pace = steps_to(steps, losses, target)
            rows.append({**_common(start), "metric": "steps_to_loss", "value": pace, "unit": "steps"})
    return rows


def loss_curve(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """(steps, losses) as logged: each loss is the mean over the steps since the line before."""
    lines = [line for line in run.read_log() if line.get("loss") is not None]
    return np.array([line["step"] for line in lines]), np.array([line["loss"] for line in lines])


def means_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Rows without a seed: means over seeds with t-intervals, ``n`` = seeds; one seed has no interval."""
    if table["seed"].nunique() < 2:
        return frame([])  # a seed's own rows say it all
    keys = ["model", "metric", "block", "head", "x", "y", "objective", "reference"]
    kept = table[table["value"].notna() & table["seed"].notna()]
    rows = []
    for _, group in kept.groupby(keys, sort=False, dropna=False):
        value, low, high, _ = t_interval(group["value"].to_numpy(float))
        first = group.iloc[0].to_dict()
        rows.append({**first, "seed": None, "value": value, "low": low, "high": high, "n": len(group)})
    return frame(rows)
