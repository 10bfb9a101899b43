"""The numbers of a two-factor study: one a model, seed and measure, read from its runs and records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fdlab.compare.cohort import Cohort, Member
from fdlab.errors import FdlabError
from fdlab.experiments.two_factors import OF_FINE_TUNED, Cell, Study
from fdlab.records.atomic import read_json
from fdlab.records.means import means_over_seeds, rows_of
from fdlab.records.metrics import METRICS
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import stage
from fdlab.study.rate_search import outcome
from fdlab.version import versions

PROBE = "cells"
OF_FINE_TUNED_LOSS = "cross-entropy of the model's own"  # what the objectives of ``FINE_TUNED`` say of themselves
KEYS = ["model", "family", "seed", "objective", "unit"]


class Measure(NamedTuple):
    """A measure of the two-way table: its probe, and how its rows become one number."""

    probe: str
    metric: str
    late: bool = False  # the mean over heads and the last half of the blocks
    log: bool = False  # its decimal logarithm, for what is positive and skewed


MEASURES = (
    *(Measure("attention", metric, late=True) for metric in ("distance_spread", "r2_relative", "r2_absolute")),
    *(Measure("attention", metric, late=True) for metric in ("nmi", "head_similarity", "entropy")),
    Measure("hessian", "eigenvalue_1_balanced", log=True),
    Measure("hessian", "objective_loss_balanced", log=True),  # beside the eigenvalue: which loss it is the curvature of
    # around the fine-tuned weights: one measure each objective of ``FINE_TUNED``
    *(Measure(OF_FINE_TUNED, f"{metric}_balanced", log=True) for metric in ("eigenvalue_1", "objective_loss")),
    *(Measure("sharpness", metric) for metric in ("sharpness_adaptive", "noise_to_rise")),
    *(Measure("features", metric) for metric in ("knn", "linear_probe")),
    *(Measure("trainability", metric) for metric in ("best_accuracy", "lr_width", "steps_to_loss")),
)


def measured(study: Study) -> pd.DataFrame:
    """Every row that the probes gave, by block and head; absent records are left out."""
    tables = []
    for cell in study.cells:
        for seed in study.seeds:
            for name in study.size.asked(cell, seed):
                with contextlib.suppress(FdlabError):
                    tables.append(Record.load(study.record(cell, seed, name)).table)
    return join(tables)


def finetuned(study: Study) -> tuple[pd.DataFrame, list[str]]:
    """The rows of ``trainability`` and of few labels (``x``: labels a class), with means over seeds; and notes."""
    table, notes = study.search.collect(study.starts)
    rows: list[dict[str, Any]] = []
    for start in study.starts:
        for labels in study.size.few:
            run, columns = RunFolder(study.few_run(start, labels)), {"probe": "few_labels", "x": labels}
            rows += outcome(run, start, columns, ("accuracy",))
    few = frame(rows)
    return join([table, few, means_over_seeds(few)]), notes


def values(table: pd.DataFrame) -> pd.DataFrame:
    """One row a model, seed and measure, of probe ``cells``."""
    seeds = table[table["seed"].notna()]
    few = seeds[(seeds["probe"] == "few_labels") & (seeds["metric"] == "accuracy")]
    few = few.assign(probe=PROBE, low=np.nan, high=np.nan, n=None)
    return join([*(_single(seeds, measure) for measure in MEASURES), few])


def _single(seeds: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    kept = seeds[(seeds["probe"] == measure.probe) & (seeds["metric"] == measure.metric)]
    if measure.late:
        kept = rows_of(kept)
    rows = []
    for key, group in kept.groupby(KEYS, sort=False, dropna=False):
        value = float(group["value"].mean())
        row = {"value": value, **dict(zip(KEYS, key, strict=True)), "probe": PROBE, "metric": measure.metric}
        if measure.log:
            row |= {"unit": "log10", "value": np.log10(value) if value > 0 else np.nan}
        rows.append(row)
    return frame(rows)


def unmeasured(single: pd.DataFrame) -> list[str]:
    """A sentence that names the measures without any value yet, from ``values``."""
    known = set(single["metric"])
    plain = [measure for measure in MEASURES if measure.probe != OF_FINE_TUNED]
    left = [METRICS[measure.metric].label for measure in plain if measure.metric not in known]
    if not single["objective"].str.startswith(OF_FINE_TUNED_LOSS).any():
        left.append("curvature around the fine-tuned weights")
    left += [] if "accuracy" in known else ["accuracy with few labels"]
    return [f"Not measured yet: {', '.join(left)}; the same command goes on with them."] if left else []


def lost(study: Study) -> list[str]:
    """A sentence for each model, probe or fine-tuning without a result. All are counted, and have no values."""
    sentences = []
    for seed in study.seeds:
        for cell in study.cells:
            start = study.start(cell, seed)
            if why := next(filter(None, (stage.failure(run) for run in start.after)), ""):
                sentences.append(f"{cell.label}, seed {seed}, has no result: {why}")
                continue
            asked = {name: study.record(cell, seed, name) for name in study.size.asked(cell, seed)}
            failed = ((name, read_json(record / "failed.json").get("why")) for name, record in asked.items())
            sentences += [f"{name} of {cell.label}, seed {seed}, has no result: {why}" for name, why in failed if why]
            runs = [study.search.run(start, rate).path for rate in study.size.rates]
            runs += [study.few_run(start, labels) for labels in study.size.few]
            if count := sum(bool(stage.failure(str(run))) for run in runs):
                sentences.append(f"{count} of {len(runs)} fine-tunings of {cell.label}, seed {seed}, diverged.")
    return sentences


# --- what is known beside the table --------------------------------------------------------------------


def cohort_of(cells: Sequence[Cell], source: Callable[[Cell], str] = lambda cell: cell.name) -> Cohort:
    """Who is whose teacher and control, for the claims; the seeds are in the table."""
    members = []
    for cell in cells:
        pair = cell.teacher.label if cell.teacher else ""
        control = cell.control.label if cell != cell.control else ""
        names = {"label": cell.label, "source": source(cell), "family": cell.family, "design": cell.design}
        members.append(Member(**names, pair_of=pair, control=control, lineage=cell.kind))
    return Cohort(model=members)


def shared_facts(study: Study, cohort: Cohort) -> dict[str, Any]:
    """What the page says of every two-factor study: its models in order, teachers and controls, seconds, versions."""
    return {
        **cohort.facts(),
        "seconds": {name: _seconds(study, patterns) for name, patterns in study.size.seconds.items()},
        "versions": versions(),
    }


def _seconds(study: Study, patterns: Sequence[str]) -> float:
    """Seconds of these runs, summed; of one that was stopped only those after its last start."""
    runs = [run for pattern in patterns for run in sorted(study.folder.glob(pattern))]
    return round(sum(float(RunFolder(run).facts().get("seconds", 0)) for run in runs), 1)
