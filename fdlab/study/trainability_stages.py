"""What ``fdlab trainability`` does besides the fine-tunings: its starts, its budget, the curvature along the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab import __version__
from fdlab.encoders.open import open_model
from fdlab.encoders.sources import parse_label
from fdlab.errors import USAGE, FdlabError
from fdlab.records.store import Record, Store
from fdlab.records.table import join
from fdlab.study import stage, trainability
from fdlab.study.demo_report import versions
from fdlab.study.diagnosis import shown_family
from fdlab.study.inputs import planned_steps
from fdlab.study.parallel import Job, report
from fdlab.study.trainability import PROBE, Start

CURVATURE = "eigenvalue_1_balanced"
SCALE = "bias_scale "
KEPT = 6  # encoders that each run keeps, so that a later call may look at more of them


@dataclass(frozen=True)
class Budget:
    """What all fine-tunings share."""

    overrides: Mapping[str, Any]
    steps: int
    batch: int
    data: str
    test: str
    per_class: int


def starts_of(models: Sequence[str], seeds: Sequence[int]) -> list[Start]:
    """A start a model and seed; each model is opened once, so that what cannot be read is said before any training."""
    starts = []
    for given in models:
        label, source = parse_label(given)
        info = open_model(source).info
        family = shown_family(label, info.family, source)
        # A table that was trained behind a factor is fine-tuned behind the same one.
        scales = [float(text.removeprefix(SCALE)) for text in info.options if text.startswith(SCALE)]
        own = {"classify.bias_scale": scales[0]} if scales else {}
        starts += [Start(label, source, seed, family, own) for seed in seeds]
    return starts


def planned(recipe: str, overrides: Mapping[str, Any]) -> Budget:
    """The budget, with what the measures need: dense log lines, ``KEPT`` encoders along the way.

    Raises:
        FdlabError: code 2, no held-out images to judge on or to choose the rate on.
    """
    from fdlab.study.training import plan

    settings = plan(recipe, task="classify", overrides=overrides).recipe
    if not settings.data.test or not settings.data.validation:
        raise FdlabError(
            "Trainability needs images for choosing the learning rate and others for judging.",
            f"data.validation is {settings.data.validation}, data.test is {settings.data.test or 'empty'}.",
            "Give --test IMAGES and --set data.validation=N.",
            code=USAGE,
        )
    steps = planned_steps(settings)
    given = {"run.log_every": max(steps // 30, 1), **overrides, "save.snapshots": max(steps // KEPT, 1)}
    data = settings.data
    return Budget(given, steps, settings.run.batch, data.source, data.test, data.per_class)


def curvature_jobs(
    starts: Sequence[Start],
    rates: Sequence[float],
    runs: Path,
    data: str,
    *,
    records: Path,
    images: int,
    device: str,
    along: int,
) -> dict[str, Job]:
    """One job a model and seed: the curvature at each kept encoder of its best run."""
    found = {}
    for start in starts:
        best = trainability.best_rate(runs, start, rates)
        if best is None:
            continue
        run = trainability.run_of(runs, start, best)
        keywords = {"run": str(run.path), "start": start, "data": data, "images": images, "device": device}
        keywords["along"] = along
        keywords["record"] = str(records / start.name)
        found[start.name] = Job(measure_along, keywords)
    return found


def measure_along(run: str, start: Start, data: str, images: int, device: str, along: int, record: str) -> None:
    """The balanced largest eigenvalue at ``along`` of the encoders that a run kept, evenly to its end, as a record."""
    from fdlab.encoders.devices import pick_device
    from fdlab.probes.measure import measure

    kept = sorted((Path(run) / "snapshots").glob("step-*.safetensors"))
    turns = sorted({round((turn + 1) * len(kept) / along) - 1 for turn in range(along)} - {-1})
    files = [kept[turn] for turn in turns]
    question = {"run": stage.digest(run), "steps": [file.stem for file in files], "data": data, "images": images}
    question["version"] = __version__
    if not stage.answered(record, question):
        store, parts = Store(Path(record).parent / "store"), []
        for file in files:
            opened = {start.label: open_model(file, device=pick_device(device))}
            own = measure("hessian", opened, data, images, 0, store=store, part="balanced", k=1, probes=0)
            own = own[(own["metric"] == CURVATURE) & (own["model"] == start.label)]
            step = int(file.stem.removeprefix("step-"))
            parts.append(own.assign(probe=PROBE, family=start.family, seed=start.seed, x=float(step)))
        Record(join(parts), {}, {"stage_question": question}).save(record)
    report(1)


def curvature(found: Mapping[str, Job]) -> pd.DataFrame:
    """The rows of all curvature jobs, after they ran."""
    return join([Record.load(job.keywords["record"]).table for job in found.values()])


def facts_of(starts: Sequence[Start], rates: Sequence[float], plan: Budget, table: pd.DataFrame) -> dict[str, Any]:
    """What the page says beside the table."""
    labels = list(dict.fromkeys(start.label for start in starts))
    seeds = sorted({start.seed for start in starts})
    tested = table.loc[table["metric"] == "accuracy", "n"].dropna()
    few = f", {plan.per_class} labels a class" if plan.per_class else ""
    return {
        "title": f"How well {', '.join(labels)} fine-tune",
        "question": "How well, how widely over learning rates and how fast does each model fine-tune?",
        "data": plan.data,
        "order": labels,
        "seed": seeds,
        "options": {s.label: [f"{SCALE}{value:g}"] for s in starts for value in s.overrides.values()},
        "splits": {"test": int(tested.max())} if len(tested) else {},
        "budget": f"{plan.steps} steps of {plan.batch} images{few}, rates {', '.join(f'{rate:g}' for rate in rates)}, "
        f"seeds {', '.join(map(str, seeds))}",
        "versions": versions(),
    }
