"""The demo's records as one table, the sentences that the numbers allow, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.experiments.digits_stages import RATES, loss_curve
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import paired_difference_interval
from fdlab.records.run_folder import RunFolder, slug
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import publish
from fdlab.version import versions

if TYPE_CHECKING:
    from fdlab.experiments.digits import Start

# What is compared, last half of the blocks: (sentence, first, second), always first minus second.
CONTRASTS = (
    ("Masked modelling minus contrastive learning", "masked modelling", "contrastive teacher"),
    (
        "Distilled into the teacher's own architecture minus the teacher",
        "distilled, same design",
        "contrastive teacher",
    ),
    (
        "Distilled into the paper's student minus the teacher (the design changes too)",
        "distilled, paper's student",
        "contrastive teacher",
    ),
)
NAMES = (
    ("r2_relative", "share explained by relative position"),
    ("r2_absolute", "share explained by key position"),
    ("nmi", "NMI"),
    ("entropy", "entropy"),
)
LIMITS = (
    "This is a plumbing and teaching demo: a few hundred steps on 8x8 digits; its accuracies do not test the paper.",
    "The contrastive teacher learned through the mean of its patch tokens, the same token that fine-tuning reads.",
    "The paper's student differs from the teacher in its design too (relative bias, layer scale); only the student of "
    "the teacher's own architecture shows what distillation alone does.",
)
LOSS_GAP = 0.1  # training losses further apart than this are named on the page


def write_report(
    folder: Path,
    records: Mapping[str, Record],
    *,
    starts: Sequence[Start],
    alphas: Sequence[float],
    seed: int,
    minutes: float,
    command: str,
) -> dict[str, Any]:
    """Writes ``table.csv``, ``facts.json``, ``figures/`` and ``index.html``; returns what the command prints."""
    from fdlab.probes.features import between
    from fdlab.report.numbers import readable
    from fdlab.report.report import Report

    models = {start.label: records[f"model-{slug(start.label)}"] for start in starts}
    chosen, tuning = fine_tuned(folder, starts)
    alike = between(models, seed=seed)
    alike["family"] = alike["model"].map({start.label: start.family for start in starts})
    tables = [record.table for record in records.values()] + [alike, frame(tuning), frame(curves(folder))]
    table = join(tables)
    facts = {
        "title": "Contrastive, masked and distilled models on handwritten digits",
        "question": "Does distilling a contrastive model's features change how its successor attends and "
        "fine-tunes, and is it the distillation or the student's design?",
        "data": "scikit-learn's handwritten digits, 8x8 enlarged to 24 px, patch 4",
        "order": [start.label for start in starts],
        "cohort": [_member(start) for start in starts],
        "controls": {start.label: start.control for start in starts if start.control},
        "seed": seed,
        "minutes": minutes,
        **_measured_facts(models, records, alphas),
        **_training_facts(folder, chosen),
        "seconds": _seconds(folder, records),
        "command": command,
        "versions": versions(),
    }
    facts["notes"] = notes(models, chosen, facts)
    facts["limits"] = list(LIMITS)
    report = Report(table, facts)
    page = publish.write_report(folder, report)
    numbers = report.summary()
    return {
        "page": str(page),
        "summary": readable(numbers),
        "numbers": numbers,
        "seconds": facts["seconds"],
        "facts": facts,
    }


def _member(start: Start) -> dict[str, str]:
    """A start as claims read it (``compare.cohort.Member``)."""
    source = f"{'random:' if start.random else ''}runs/{start.run}"
    stated = {"design": start.design, "pair_of": start.pair_of, "control": start.control}
    return {"label": start.label, "source": source, "family": start.family} | {k: v for k, v in stated.items() if v}


def fine_tuned(folder: Path, starts: Sequence[Start]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Per start the run of the best rate by validation accuracy (ties: the lower loss), and all rows.

    The test accuracy of every rate stays in the table; only the validation accuracy chooses.
    """

    chosen, rows = {}, []
    for start in starts:
        runs = []
        for rate in RATES:
            run = RunFolder(folder / "runs" / f"finetune-{slug(start.label)}-{rate:g}")
            runs.append({**run.facts(), "lr": rate, "record": Record.load(run.path / "record").table})
        best = max(runs, key=lambda facts: (facts["validation_accuracy"], -facts["final_loss"]))
        chosen[start.label] = best
        for facts in runs:
            table = facts["record"].assign(x=facts["lr"], family=start.family)
            if facts is not best:
                table = table.assign(probe="tuning")
            rows += table.astype(object).where(table.notna(), None).to_dict("records")
    return chosen, rows


def curves(folder: Path) -> list[dict[str, Any]]:
    """The training losses of the pre-training stages."""
    stages = {
        "contrastive": ("contrastive teacher", "contrastive", "contrastive (NT-Xent)"),
        "masked": ("masked modelling", "mim", "masked pixels (squared error)"),
        "distilled-student": ("distilled, paper's student", "distilled", "distillation (smooth L1)"),
        "distilled-same": ("distilled, same design", "distilled", "distillation (smooth L1)"),
    }
    rows = []
    for name, (label, family, stage) in stages.items():
        rows += loss_curve(folder / "runs" / name, label, family, stage)
    return rows


def _measured_facts(
    models: Mapping[str, Record], records: Mapping[str, Record], alphas: Sequence[float]
) -> dict[str, Any]:
    any_model = next(iter(models.values())).manifest
    ruler = records[f"ruler-{alphas[0]:g}"].manifest
    options = {label: record.manifest["options"] for label, record in models.items() if record.manifest["options"]}
    options |= {f"locality {a:g}": records[f"ruler-{a:g}"].manifest["options"] for a in alphas}
    return {
        "images": any_model["images"],
        "preprocessing": any_model["preprocessing"],
        "skipped_images": any_model["skipped"],
        "uniform_px": {label: record.manifest["uniform_distance_px"] for label, record in models.items()},
        "ruler_uniform_px": ruler["uniform_distance_px"],
        "ruler_accuracy": {f"locality {a:g}": _accuracy(records[f"ruler-{a:g}"]) for a in alphas},
        "options": options,
        "position_only_loss": any_model["position_only_loss"],
    }


def _accuracy(record: Record) -> float:
    table = record.table
    return float(table.loc[table["metric"] == "accuracy", "value"].iloc[0])


def _training_facts(folder: Path, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    from fdlab.data.sources import open_data

    some = next(iter(chosen.values()))
    recipe = Record.load(folder / "runs" / "contrastive" / "record").manifest["recipe"]
    tuned = _recipe_of(chosen, folder)
    distilled = {
        "distilled, paper's student": "distilled-student",
        "distilled, same design": "distilled-same",
    }
    return {
        "distil_loss": {
            label: RunFolder(folder / "runs" / run).facts()["final_loss"] for label, run in distilled.items()
        },
        "budget": f"{tuned['run']['steps']} steps of {tuned['run']['batch']} images, each model's learning rate "
        f"the better of two on the validation images, {tuned['data']['per_class']} labels a class",
        "splits": {
            "labelled": some["labels"],
            "validation": tuned["data"]["validation"],
            "test": int(some["count"]),
        },
        "pretraining_images": len(open_data(recipe["data"]["source"])),
        "learning_rates": {label: facts["lr"] for label, facts in chosen.items()},
        "training_loss": {label: facts["final_loss"] for label, facts in chosen.items()},
    }


def _recipe_of(chosen: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:

    label, facts = next(iter(chosen.items()))
    run = folder / "runs" / f"finetune-{slug(label)}-{facts['lr']:g}"
    return Record.load(run / "record").manifest["recipe"]


def _seconds(folder: Path, records: Mapping[str, Record]) -> dict[str, float]:
    """Seconds of each stage on its own, summed by kind, as its run or record kept them."""
    kinds = {"ruler": 0.0, "pre-training": 0.0, "distillation": 0.0, "fine-tuning": 0.0, "measuring": 0.0}
    for run in sorted((folder / "runs").iterdir()):
        prefix = run.name.split("-")[0]
        kind = {"ruler": "ruler", "distilled": "distillation", "finetune": "fine-tuning"}.get(prefix, "pre-training")
        kinds[kind] += float(RunFolder(run).facts().get("seconds", 0.0))
    kinds["measuring"] = sum(float(record.manifest["seconds"]) for record in records.values())
    return {kind: round(value, 1) for kind, value in kinds.items()}


def notes(models: Mapping[str, Record], chosen: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """What the numbers of this run say, as sentences; none is written before they are known."""
    said = [
        *(f"{sentence}, paired over the same images: {_changes(models, a, b)}." for sentence, a, b in CONTRASTS),
        _accuracy_note(chosen),
        _loss_note(chosen),
        rate_note([{label: facts["lr"] for label, facts in chosen.items()}]),
    ]
    low = [f"{label} {accuracy:.0%}" for label, accuracy in facts["ruler_accuracy"].items() if accuracy < 0.9]
    if low:
        said.append(f"The ruler's models have not learned their task everywhere: {', '.join(low)}.")
    return said


def _changes(models: Mapping[str, Record], first: str, second: str) -> str:
    parts = []
    for metric, name in NAMES:
        change = paired_difference_interval(
            late_per_image(models[first], metric), late_per_image(models[second], metric)
        )
        parts.append(f"{name} {_signed(change, 2)}")
    return ", ".join(parts)


def late_per_image(record: Record, metric: str) -> Any:
    """(images,): the mean over heads and the last half of the blocks, per image; undefined values left out."""
    import numpy as np

    values = record.arrays[metric]
    late = values[:, values.shape[1] // 2 :].reshape(len(values), -1)
    return np.nanmean(late, axis=1)


def _signed(change: Estimate, digits: int) -> str:
    value, low, high = (f"{float(v):+.{digits}f}" for v in change[:3])
    clear = float(change[1]) > 0 or float(change[2]) < 0
    return f"{value} ({low} to {high}{'' if clear else ', not separated from 0'})"


def _accuracy_note(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    from fdlab.records.intervals import proportion_interval

    spans = {label: proportion_interval(int(facts["correct"]), int(facts["count"])) for label, facts in chosen.items()}
    trained = [label for label in spans if not label.startswith("random")]
    apart = [
        f"{a} and {b}"
        for i, a in enumerate(trained)
        for b in trained[i + 1 :]
        if spans[a][2] < spans[b][1] or spans[b][2] < spans[a][1]
    ]
    values = ", ".join(f"{label} {100 * span[0]:.1f}" for label, span in spans.items())
    verdict = (
        f"separated by their 95 % intervals: {'; '.join(apart)}"
        if apart
        else "the trained starts are not separated from each other by their 95 % intervals"
    )
    return f"Fine-tuned test accuracy in per cent: {values}; {verdict} (one seed)."


def rate_note(rates: Sequence[Mapping[str, float]]) -> str:
    """Whose best rate was the highest tried (one mapping a seed): a wider search might serve these better."""

    top = [label for label in rates[0] if all(seed[label] == max(RATES) for seed in rates)]
    if not top:
        return "No model's chosen learning rate is the highest tried in every seed."
    each = " in every seed" if len(rates) > 1 else ""
    return f"The highest learning rate tried was the best{each} for {', '.join(top)}: a wider search might raise these."


def _loss_note(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    losses = {label: facts["final_loss"] for label, facts in chosen.items()}
    best = min(losses.values())
    behind = [f"{label} ({loss:.2f})" for label, loss in losses.items() if loss > best + LOSS_GAP]
    if not behind:
        return f"All fine-tunings end within {LOSS_GAP} of the lowest training loss ({best:.2f})."
    return (
        f"Not fitted as far as the best (training loss {best:.2f}): {', '.join(behind)}; "
        "their accuracies also tell how far they were trained."
    )
