"""The numbers of the factorial study: one a model, seed and measure, read from its runs and records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fdlab.errors import FdlabError
from fdlab.experiments.two_factors import CELLS, FINETUNED, PROBES, Cell, Size, few_run, record_of, starts
from fdlab.records.metrics import METRICS
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import rate_search, stage

PROBE = "cells"


class Measure(NamedTuple):
    """A number of the two-way table: of which probe, and how it is made one number."""

    probe: str
    metric: str
    late: bool = False  # the mean over heads and the last half of the blocks
    log: bool = False  # its decimal logarithm, for what is positive and skewed


MEASURES = (
    Measure("attention", "distance_spread", late=True),
    Measure("attention", "r2_relative", late=True),
    Measure("attention", "r2_absolute", late=True),
    Measure("attention", "nmi", late=True),
    Measure("attention", "head_similarity", late=True),
    Measure("attention", "entropy", late=True),
    Measure("hessian", "eigenvalue_1_balanced", log=True),
    Measure("sharpness", "sharpness_adaptive"),
    Measure("sharpness", "noise_to_rise"),
    Measure("features", "knn"),
    Measure("features", "linear_probe"),
    Measure("trainability", "best_accuracy"),
    Measure("trainability", "lr_width"),
    Measure("trainability", "steps_to_loss"),
)


def measured(folder: Path, seeds: Sequence[int], cells: Iterable[Cell] = CELLS) -> pd.DataFrame:
    """Every row that the probes gave, by block and head; absent records are left out."""
    tables = []
    for cell in cells:
        for seed in seeds:
            for probe in PROBES:
                try:
                    tables.append(Record.load(record_of(folder, cell, seed, probe)).table)
                except FdlabError:
                    continue
    return join(tables)


def finetuned(
    folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS
) -> tuple[pd.DataFrame, list[str]]:
    """The rows of ``trainability`` with their means over seeds, and of few labels (``x`` = labels a class)."""
    own = starts(folder, size, seeds, cells)
    table, said = rate_search.collect(folder / FINETUNED, own, size.rates)
    rows: list[dict[str, Any]] = []
    for start in own:
        for labels in size.few:
            run = RunFolder(few_run(folder, start, labels))
            common = {"model": start.label, "family": start.family, "seed": start.seed, "probe": "few_labels"}
            failed = bool(stage.failure(str(run.path), start.after))
            if run.finished or failed:
                rows.append({**common, "metric": "diverged", "x": labels, "value": float(failed)})
            if run.finished:
                line = Record.load(run.path / "record").table.query("metric == 'accuracy'").iloc[0]
                bounds = {"low": line["low"], "high": line["high"], "n": int(line["n"])}
                rows.append({**common, "metric": "accuracy", "x": labels, "value": line["value"], **bounds})
    few = frame(rows)
    return join([table, few, rate_search.means_over_seeds(few)]), said


def values(table: pd.DataFrame) -> pd.DataFrame:
    """One row a model, seed and measure, of probe ``cells``."""
    parts = [_one(table, measure) for measure in MEASURES]
    few = table[(table["probe"] == "few_labels") & (table["metric"] == "accuracy") & table["seed"].notna()]
    return join([*parts, few.assign(probe=PROBE, low=np.nan, high=np.nan, n=None)])


def _one(table: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    own = table[(table["probe"] == measure.probe) & (table["metric"] == measure.metric) & table["seed"].notna()]
    if measure.late:
        own = own[own["depth"] > 0.5]
    rows = []
    keys = ["model", "family", "seed", "objective", "unit"]
    for key, group in own.groupby(keys, sort=False, dropna=False):
        value = float(group["value"].mean())
        row: dict[str, Any] = {**dict(zip(keys, key, strict=True)), "probe": PROBE, "metric": measure.metric}
        if measure.log:
            row |= {"unit": "log10", "value": np.log10(value) if value > 0 else np.nan}
        rows.append({"value": value, **row})
    return frame(rows)


def unmeasured(single: pd.DataFrame) -> list[str]:
    """A sentence that names the measures without any value yet, from ``values``."""
    known = set(single["metric"])
    left = [METRICS[measure.metric].label for measure in MEASURES if measure.metric not in known]
    left += [] if "accuracy" in known else ["accuracy with few labels"]
    return [f"Not measured yet: {', '.join(left)}; the same command goes on with them."] if left else []


def lost(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> list[str]:
    """A sentence for what has no result: models, probes on them, fine-tunings. All are counted, and have no values."""
    said = []
    for start in starts(folder, size, seeds, cells):
        cell = next(cell for cell in cells if cell.label == start.label)
        if why := next(filter(None, (stage.failure(run) for run in start.after)), ""):
            said.append(f"{start.label}, seed {start.seed}, has no result: {why}")
            continue
        for probe in PROBES:
            path = record_of(folder, cell, start.seed, probe) / "failed.json"
            if path.is_file():
                why = json.loads(path.read_text(encoding="utf-8"))["why"]
                said.append(f"{probe} of {start.label}, seed {start.seed}, has no result: {why}")
        runs = [rate_search.run_of(folder / FINETUNED, start, rate).path for rate in size.rates]
        runs += [few_run(folder, start, labels) for labels in size.few]
        if count := sum(bool(stage.failure(str(run))) for run in runs):
            said.append(f"{count} of {len(runs)} fine-tunings of {start.label}, seed {start.seed}, diverged.")
    return said
