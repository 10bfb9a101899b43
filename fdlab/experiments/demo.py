"""``fdlab demo``: the two-factor study at digit size, from training to the page, in about five minutes.

First come the jobs, as ``digits.py`` describes them: every stage is a run folder or a record, so the same command
continues an interrupted demo. Then its runs and records become one table, the facts beside it, and the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fdlab.compare.cohort import Cohort
from fdlab.errors import USAGE, FdlabError
from fdlab.experiments.digits import ALPHAS, FULL_MINUTES, ruler_jobs, ruler_name, study_of
from fdlab.experiments.digits_words import LIMITS, notes
from fdlab.experiments.stages import pretraining, probing, tuning
from fdlab.experiments.two_factors import Cell, Study
from fdlab.experiments.values import cohort_of, lost, shared_facts
from fdlab.records.atomic import read_json, writable_folder, write_json
from fdlab.records.run_folder import RunFolder, refuse_foreign
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.report.report import Report
from fdlab.study.parallel import run_jobs
from fdlab.study.publish import write_report as publish
from fdlab.study.rate_search import loss_curve
from fdlab.study.stating import accuracies, changes, findings

if TYPE_CHECKING:
    import pandas as pd

Chosen = Mapping[str, Mapping[str, Any]]  # label -> run.json of the run at the model's best rate, and the rate as "lr"
OBJECTIVES = {
    "contrastive": "contrastive (NT-Xent)",
    "masked": "masked pixels (squared error)",
    "distill": "distillation (smooth L1)",
}


def demo(
    out: str | Path = "reports/demo",
    *,
    seed: int = 0,
    minutes: float = FULL_MINUTES,
    workers: int = 2,
    quiet: bool = False,
    command: str = "fdlab demo",
) -> dict[str, Any]:
    """Runs what is missing of the demo and writes the report.

    Args:
        out: the report's folder; runs and records are kept in ``runs/`` and ``records/`` below it.
        seed: of everything.
        minutes: scales all step counts; 5 is the full recipe.
        workers: processes; the numbers do not depend on it.

    Returns:
        ``page`` (its path), ``summary`` (one row a model), ``seconds`` by stage.

    Raises:
        FdlabError: code 2 where ``out`` holds a demo with another seed or length; 1 where a model has no result.
    """
    if not 0.05 <= minutes <= 600:
        raise FdlabError(f"--minutes {minutes:g} is out of range.", fix="Give a number from 0.05 to 600.", code=USAGE)
    folder = writable_folder(out)
    same_question(folder, {"seed": seed, "minutes": minutes})
    study = study_of(folder, seed, minutes)
    jobs = {**ruler_jobs(study, minutes), **pretraining(study), **probing(study), **tuning(study)}
    run_jobs(jobs, workers=workers, label="demo", quiet=quiet)
    return write_report(study, minutes=minutes, command=command)


def same_question(folder: Path, question: dict[str, Any]) -> None:
    """Refuses a folder that holds a demo with other settings; notes the settings in a new one.

    Raises:
        FdlabError: code 2.
    """
    path = folder / "demo.json"
    if not path.is_file():
        refuse_foreign(folder, "holds no demo", path.name)
        write_json(path, question)
    elif (old := read_json(path)) != question:
        raise FdlabError(
            f"{folder} holds a demo with other settings.",
            f"There: {old}; now: {question}.",
            "Give the old settings to continue it, or another folder with --out.",
            code=USAGE,
        )


def write_report(study: Study, *, minutes: float, command: str) -> dict[str, Any]:
    """Writes ``table.csv``, ``facts.json``, ``figures/`` and ``index.html``; returns what the command prints.

    Raises:
        FdlabError: a model has no result.
    """
    from fdlab.probes.features import between
    from fdlab.report.numbers import readable

    if sentences := lost(study):
        raise FdlabError(sentences[0], fix="Delete what it names and give the same command again.")
    (seed,), folder, inside = study.seeds, study.folder, replace(study, folder=Path())
    records = {path.name: Record.load(path) for path in sorted((folder / "records").iterdir())}
    models = {cell.label: records[study.record(cell, seed, "model").name] for cell in study.cells}
    chosen, tuned = fine_tuned(study)
    alike = between(models, seed=seed)
    alike["family"] = alike["model"].map({cell.label: cell.family for cell in study.cells})
    cohort = cohort_of(study.cells, lambda cell: inside.source(cell, seed))
    differences, found = compared(study, cohort, models, chosen)
    table = join([*(record.table for record in records.values()), alike, *tuned, frame(curves(study)), differences])
    facts = {
        "title": "Contrastive, masked and distilled models on handwritten digits",
        "question": "Does distilling a contrastive model change how it attends and fine-tunes?",
        "data": "scikit-learn's handwritten digits, 8x8 enlarged to 24 px, patch 4",
        **shared_facts(study, cohort),
        "findings": found,
        "seed": seed,
        "minutes": minutes,
        **_measured_facts(models, records),
        **_training_facts(study, chosen),
        "command": command,
        "limits": list(LIMITS),
    }
    facts["seconds"]["measuring"] = round(sum(float(record.manifest["seconds"]) for record in records.values()), 1)
    facts["notes"] = notes(models, chosen, facts["ruler_accuracy"])
    report = Report(table, facts)
    page, numbers = publish(folder, report), report.summary()
    printed = {"summary": readable(numbers), "numbers": numbers, "seconds": facts["seconds"]}
    return {"page": str(page), **printed, "facts": facts}


def compared(
    study: Study, cohort: Cohort, models: Mapping[str, Record], chosen: Chosen
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The paired differences on the same images, attention and accuracies, and what they let one say."""
    by_probe = {"attention": models}
    tuned = {}
    for start in study.starts:
        record = Record.load(study.search.run(start, chosen[start.label]["lr"]).path / "record")
        rows = record.table[record.table["metric"] == "accuracy"]
        tuned[start.label] = Record(rows.assign(model=start.label), record.arrays, record.manifest)
    of_attention, _ = changes(cohort, by_probe, study.seeds[0])
    of_accuracy = accuracies(cohort, tuned)
    differences = join([of_attention, of_accuracy[of_accuracy["reference"] != ""]]).assign(seed=study.seeds[0])
    uniform = {label: record.manifest["uniform_distance_px"] for label, record in models.items()}
    values = join([*(record.table for record in models.values()), *(record.table for record in tuned.values())])
    return differences, findings(join([values, differences]), cohort, by_probe, uniform)


def fine_tuned(study: Study) -> tuple[Chosen, list[pd.DataFrame]]:
    """Per model the run of the best rate by validation accuracy, and the rows of all runs.

    The test accuracy of every rate stays in the table, as probe ``tuning`` where another rate was chosen.
    """
    chosen: dict[str, dict[str, Any]] = {}
    tables = []
    for start in study.starts:
        best = study.search.best_rate(start)
        for rate in study.search.rates:
            run = study.search.run(start, rate)
            table = Record.load(run.path / "record").table.assign(x=rate, family=start.family)
            if rate == best:
                chosen[start.label] = {**run.facts(), "lr": rate}
            tables.append(table if rate == best else table.assign(probe="tuning"))
    return chosen, tables


def curves(study: Study) -> Iterable[dict[str, Any]]:
    """The training losses of the pre-training stages, as rows of the table."""
    for cell in trained(study):
        for seed in study.seeds:
            common = {"model": cell.label, "family": cell.family, "seed": seed, "probe": "curve", "metric": "loss"}
            for step, loss in zip(*loss_curve(RunFolder(study.run(cell, seed))), strict=True):
                if np.isfinite(loss):
                    yield {**common, "x": step, "value": loss, "objective": OBJECTIVES[cell.stage]}


def trained(study: Study) -> list[Cell]:
    """The models that have a run of their own; the paper's student is named before its control."""
    cells = [cell for cell in study.cells if not cell.untrained]
    return sorted(cells, key=lambda cell: cell.distilled and cell.design == "plain")


def _measured_facts(models: Mapping[str, Record], records: Mapping[str, Record]) -> dict[str, Any]:
    from fdlab.data.sources import open_data

    def accuracy(table: pd.DataFrame) -> float:
        return float(table.loc[table["metric"] == "accuracy", "value"].iloc[0])

    some = next(iter(models.values())).manifest
    rulers = {f"locality {alpha:g}": records[ruler_name(alpha)] for alpha in ALPHAS}
    options = {label: record.manifest["options"] for label, record in {**models, **rulers}.items()}
    return {
        "images": some["images"],
        "preprocessing": open_data(some["data"]).preprocessing,
        "skipped_images": some["skipped"],
        "uniform_px": {label: record.manifest["uniform_distance_px"] for label, record in models.items()},
        "ruler_uniform_px": next(iter(rulers.values())).manifest["uniform_distance_px"],
        "ruler_accuracy": {label: accuracy(record.table) for label, record in rulers.items()},
        "options": {label: names for label, names in options.items() if names},
        "position_only_loss": some["position_only_loss"],
    }


def _training_facts(study: Study, chosen: Chosen) -> dict[str, Any]:
    from fdlab.data.sources import open_data

    def recipe_of(run: RunFolder) -> Any:
        return Record.load(run.path / "record").manifest["recipe"]

    (seed,), start = study.seeds, study.starts[0]
    runs = {cell: RunFolder(study.run(cell, seed)) for cell in trained(study)}
    some = chosen[start.label]
    tuned = recipe_of(study.search.run(start, some["lr"]))
    return {
        "distil_loss": {cell.label: run.facts()["final_loss"] for cell, run in runs.items() if cell.distilled},
        "budget": f"{tuned['run']['steps']} steps of {tuned['run']['batch']} images, each model's learning rate "
        f"the better of two on the validation images, {tuned['data']['per_class']} labels a class",
        "splits": {"labelled": some["labels"], "validation": tuned["data"]["validation"], "test": int(some["count"])},
        "pretraining_images": len(open_data(recipe_of(runs[study.cells[0]])["data"]["source"])),
        "learning_rates": {label: facts["lr"] for label, facts in chosen.items()},
        "training_loss": {label: facts["final_loss"] for label, facts in chosen.items()},
    }
