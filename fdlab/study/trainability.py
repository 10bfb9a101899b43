"""``fdlab trainability``: optimisation friendliness measured by fine-tuning, not inferred from a picture.

Every model is fine-tuned with one budget over a grid of learning rates and several seeds. Each fine-tuning is a run
folder, so the same command continues it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import parse_label
from fdlab.data.sources import open_data
from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import writable_folder
from fdlab.records.means import means_over_seeds
from fdlab.records.metrics.names import OF_FINETUNING
from fdlab.records.store import Record, Store
from fdlab.records.table import join
from fdlab.study import stage
from fdlab.study.diagnosis import shown_family
from fdlab.study.inputs import planned_steps
from fdlab.study.parallel import Job, report, run_jobs
from fdlab.study.rate_search import PROBE, Search, Start
from fdlab.version import versions

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
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


def _distinct_folders(starts: Sequence[Start]) -> None:
    """Refuses labels that differ in signs alone: their runs would share a folder."""
    labels = {start.name: start.label for start in starts}
    for start in starts:
        if labels[start.name] != start.label:
            raise FdlabError(
                f"The labels '{start.label}' and '{labels[start.name]}' would share the folder {start.name}.",
                "They differ in signs that no folder's name has.",
                "Name one of them otherwise: label=SOURCE.",
                code=USAGE,
            )


def starts_of(models: Sequence[str], seeds: Sequence[int]) -> list[Start]:
    """A start for each model and seed; every model is opened once, so that an unreadable one is refused at once."""
    starts = []
    for name in models:
        label, source = parse_label(name)
        info = open_model(source).info
        family = shown_family(label, info.kind)
        # A table that was trained behind a factor is fine-tuned behind the same one.
        scales = [float(text.removeprefix(SCALE)) for text in info.options if text.startswith(SCALE)]
        overrides = {"classify.bias_scale": scales[0]} if scales else {}
        starts += [Start(label, source, seed, family, overrides) for seed in seeds]
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
    settled = {"run.log_every": max(steps // 30, 1), **overrides, "save.snapshots": max(steps // KEPT, 1)}
    data = settings.data
    return Budget(settled, steps, settings.run.batch, data.source, data.test, data.per_class)


def curvature_jobs(
    starts: Sequence[Start], search: Search, records: Path, *, data: str, images: int, device: str, along: int
) -> dict[str, Job]:
    """One job for each model and seed: the curvature at the kept encoders of its best run."""
    shared = {"data": data, "images": images, "device": device, "along": along}
    jobs = {}
    for start in starts:
        if best := search.best_rate(start):
            run, record = str(search.run(start, best).path), str(records / start.name)
            jobs[start.name] = Job(measure_along, {"run": run, "start": start, "record": record, **shared})
    return jobs


def measure_along(run: str, start: Start, data: str, images: int, device: str, along: int, record: str) -> None:
    """The balanced largest eigenvalue at ``along`` of the encoders that a run kept, evenly to its end, as a record."""
    from fdlab.encoders.devices import pick_device
    from fdlab.probes.measure import measure

    kept = sorted((Path(run) / "snapshots").glob("step-*.safetensors"))
    turns = sorted({round((turn + 1) * len(kept) / along) - 1 for turn in range(along)} - {-1})
    files = [kept[turn] for turn in turns]
    question = {"run": stage.digest(run), "steps": [file.stem for file in files], "data": data, "images": images}

    def answer() -> Record:
        store, parts = Store(Path(record).parent / "store"), []
        for file in files:
            opened = {start.label: open_model(file, device=pick_device(device))}
            table = measure("hessian", opened, data, images, 0, store=store, part="balanced", k=1, probes=0)
            table = table[(table["metric"] == CURVATURE) & (table["model"] == start.label)]
            step = int(file.stem.removeprefix("step-"))
            parts.append(table.assign(probe=PROBE, family=start.family, seed=start.seed, x=float(step)))
        return Record(join(parts))

    stage.once(record, question, answer)
    report(1)


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


def check(starts: Sequence[Start], rates: Sequence[float]) -> None:
    """Refuses a grid without two different rates, and labels that would share a folder.

    Raises:
        FdlabError: code 2.
    """
    names = {f"{rate:g}" for rate in rates}
    if len(rates) < 2 or len(names) < len(rates) or not all(0 < rate < math.inf for rate in rates):
        fix = "Give two or more different, positive rates."
        raise FdlabError("The learning rates are no grid.", fix=fix, code=USAGE)
    labels = [start.name for start in starts]
    if twice := sorted({name for name in labels if labels.count(name) > 1}):
        raise FdlabError(f"Two models are called {twice[0].rpartition('_')[0]!r}.", fix="Name them apart.", code=USAGE)


def trainability(
    models: Sequence[str],
    out: str | Path,
    *,
    recipe: str = "digits/finetune",
    rates: Sequence[float] = RATES,
    seeds: int = 3,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    along: int = 3,
    images: int = 64,
    device: str = "cpu",
    workers: int = 2,
    quiet: bool = False,
    command: str = "fdlab trainability",
) -> dict[str, Any]:
    """Fine-tunes what is missing, looks at the curvature along the way and writes the report.

    Args:
        models: SOURCE or label=SOURCE each.
        recipe: of the fine-tuning; the same budget for all. overrides: of its settings, by dotted key.
        seeds: trainings a model and rate, with seed, seed + 1, ...; they also draw the labelled and validation images.
        along: at how many places of each model's best run the balanced largest eigenvalue is measured (of the
            linear-probe objective, on ``images`` of the recipe's held-out images), at most 6; 0: nowhere.
        device: where everything runs.

    Returns:
        ``page``, ``table``, ``numbers`` (text, one row a model) and ``notes``.

    Raises:
        FdlabError: code 2, a grid, labels or settings that are wrong, or data without validation or test images.
    """
    from fdlab.report.figures import figure_of
    from fdlab.report.report import Report
    from fdlab.study.publish import write_report

    starts = starts_of(models, range(seed, seed + seeds))
    _distinct_folders(starts)
    check(starts, rates)
    budget = planned(recipe, {"run.device": device, **(overrides or {})})
    folder = writable_folder(out)
    search, records = Search(folder / "runs", rates), folder / "records"
    run_jobs(search.jobs(starts, recipe, budget.overrides), workers=workers, label=PROBE, quiet=quiet)
    asked: dict[str, Any] = {"data": budget.test, "images": images, "device": device, "along": along}
    curved = curvature_jobs(starts, search, records, **asked) if along else {}
    run_jobs(curved, workers=workers, label="curvature", quiet=quiet)
    table, notes = search.collect(starts)
    notes = [*open_data(budget.data).notes, *notes]
    curves = join(Record.load(job.keywords["record"]).table for job in curved.values())
    table = join([table, curves, means_over_seeds(curves)]).assign(objective=OF_FINETUNING)
    facts = facts_of(starts, rates, budget, table) | {"notes": notes, "command": command}
    report = Report(table, facts)
    page, numbers = write_report(folder, report), figure_of("trainability", report).numbers()
    return {"page": page, "table": table, "numbers": numbers, "notes": notes}
