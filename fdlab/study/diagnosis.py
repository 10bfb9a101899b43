"""``fdlab diagnose``: one probe on several models, written as a report."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fdlab.checkpoints.sources import parse_label
from fdlab.compare.cohort import cohort_of
from fdlab.data.sources import open_data
from fdlab.probes.fitting import NotForModel
from fdlab.probes.growth import sentence
from fdlab.probes.measure import measure
from fdlab.records.atomic import writable_folder
from fdlab.records.run_folder import own_folder
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, join
from fdlab.study.publish import write_report
from fdlab.study.stating import changes, findings
from fdlab.version import versions

if TYPE_CHECKING:
    import pandas as pd


def shown_family(label: str, kind: str) -> str:
    """The display family of a model: what it was trained on, as far as its file proves it, else "unknown"."""
    return "random" if label == CONTROL else kind


class Subject(NamedTuple):
    """How the report of a probe is titled, and the question that it is about."""

    title: str
    question: str


SUBJECTS = {
    "attention": Subject(
        "Attention of", "How far, how broadly and how differently do the heads of these models attend?"
    ),
    "attribution": Subject(
        "What answers rest on:", "Which parts of an image, and which heads, does each model's score rest on?"
    ),
    "features": Subject("Features of", "What are each block's tokens like, and which blocks and models are alike?"),
    "landscape": Subject(
        "Loss around", "How does the loss of these models change along lines and planes through their weights?"
    ),
    "sharpness": Subject(
        "Sharpness of", "How much does the loss of these models rise around their weights, and what of it is scale?"
    ),
    "hessian": Subject("Curvature of", "How sharply is the loss of these models curved, and what of it is scale?"),
}

STATED = ("attention", "features")  # probes whose measures answer a question of ``compare.questions``


def diagnose(
    probe: str,
    models: Sequence[str],
    data: str,
    out: str | Path,
    *,
    images: int = 256,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 32,
    fresh: bool = False,
    control: bool = True,
    quiet: bool = False,
    parts: Sequence[str] = (),
    maps: bool = False,
    command: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Measures, draws and writes ``table.csv``, ``figures/``, ``records/`` and ``index.html`` under ``out``.

    Args:
        probe: a name in ``fdlab.probes.probe.PROBES``.
        parts: of a probe with a setting ``part``: each is measured and stored for itself, so that a stopped run
            continues behind the last one that was finished.
        maps: with attention, averaged maps and learnt biases too, on the same images.
        command: what the page shows as the command that made it.
        settings: the probe's own.

    Returns:
        ``page``, ``table``, ``findings`` (where several models were measured), ``summary`` (text) and ``notes``.
    """
    from fdlab.report.numbers import readable
    from fdlab.report.report import Report

    folder = writable_folder(out)
    common = {"seed": seed, "device": device, "batch": batch, "fresh": fresh, "quiet": quiet, "random_control": control}
    result = gather(probe, list(models), data, parts=parts, images=images, **common, **settings)
    manifests = {label: record.manifest for label, record in result.records.items()}
    stated: list[dict[str, Any]] = []
    if probe in STATED and len(manifests) > 1:
        cohort, records = cohort_of([parse_label(str(model)) for model in models]), {probe: result.records}
        differences, not_taken = changes(cohort, records, seed)
        table = join([result.table, differences])
        stated = findings(table, cohort, records, facts_of(probe, data, seed, manifests)["uniform_px"])
        result = Gathered(table, result.records, [*result.notes, *not_taken])
    if maps:  # on as many of the same images as the tolerance asked for
        measured = max(manifest["offered"] for manifest in manifests.values())
        result = _together(result, gather("attention_maps", list(models), data, parts=(), images=measured, **common))
    facts = facts_of(probe, data, seed, manifests) | {"notes": result.notes}
    if stated:
        facts["findings"] = stated
    facts["command"] = command or f"fdlab diagnose {probe}"
    save_records(folder / "records", result.records)
    report = Report(result.table, facts)
    page = write_report(folder, report)
    shown = {"summary": readable(report.summary()), "findings": stated}
    notes = [*left_out(result.records), *result.notes]
    return {"page": page, "table": result.table, "notes": notes, **shown}


def left_out(records: Mapping[str, Record]) -> list[str]:
    """How many images could not be read, for the terminal; the page says it by itself."""
    count = max((int(record.manifest.get("skipped", 0)) for record in records.values()), default=0)
    many = (
        f"{count} images could not be read and were left out."
        if count > 1
        else "1 image could not be read and is left out."
    )
    return [many] if count else []


class Gathered(NamedTuple):
    """One probe on several models: the table with display families, label -> record, sentences to be shown."""

    table: pd.DataFrame
    records: dict[str, Record]
    notes: list[str]


def gather(probe: str, models: Any, data: str, *, parts: Sequence[str] = (), **settings: Any) -> Gathered:
    """``measure`` for every part, joined; its warnings and what was assumed or left out as sentences."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        by_part: list[dict[str, Any]] = [{"part": part} for part in parts] or [{}]
        tables, not_for = [], list[NotForModel]()
        for part in by_part:
            try:
                tables.append(measure(probe, models, data=data, **settings, **part))
            except NotForModel as error:
                not_for.append(error)
        if not tables:
            raise not_for[0]
    records = _joined([table.attrs["record"] for table in tables])
    manifests = {label: record.manifest for label, record in records.items()}
    shown = {label: shown_family(label, str(m["kind"])) for label, m in manifests.items()}
    table = join(tables)
    table["family"] = [shown[label] for label in table["model"]]
    warned = [*open_data(data).notes, *(str(w.message) for w in caught if issubclass(w.category, UserWarning))]
    warned += [sentence for error in not_for for sentence in error.left_out]
    notes = [*dict.fromkeys(warned), *(f"{m['label']}: {text}" for m in manifests.values() for text in m["assumed"])]
    for m in manifests.values():
        notes += [f"{m['label']}: not measured: {text}" for text in m.get("not_measured", [])]
        notes += [f"{m['label']}: {text}" for text in m.get("remarks", [])]
        if not m.get("renormalise", True):
            notes.append(f"{m['label']}: distances not renormalised: attention on prefix tokens shrinks them")
        if max(m.get("windows", [1])) > 1:
            notes.append(f"{m['label']}: attention inside windows; distances are bounded by the window of each block")
    for m in list(manifests.values())[:1]:  # all models have the same images
        notes += [sentence(m["tolerance"], m["images"], int(m.get("skipped", 0)))] if "tolerance" in m else []
    return Gathered(table, records, notes)


def _together(first: Gathered, second: Gathered) -> Gathered:
    """Two probes on the same models."""
    notes = list(dict.fromkeys([*first.notes, *second.notes]))
    return Gathered(join([first.table, second.table]), _joined([first.records, second.records]), notes)


def save_records(folder: Path, records: Mapping[str, Record]) -> None:
    """Every record as a folder of its own, so that its per-image values stay with the report."""
    for label, record in records.items():
        record.save(folder / own_folder(label))


def _joined(parts: list[dict[str, Record]]) -> dict[str, Record]:
    """One record a model from those of its parts; the first part's manifest tells of the model.

    A model that a part cannot measure has the other parts alone.
    """
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: _one_record([part[label] for part in parts if label in part]) for label in labels}


def _one_record(parts: list[Record]) -> Record:
    return Record(
        join(part.table for part in parts),
        {name: values for part in parts for name, values in part.arrays.items()},
        _joined_manifest([part.manifest for part in parts]),
    )


def _joined_manifest(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The first part's manifest with what all parts could not measure or remark, and all of them as ``parts``."""
    if len(manifests) == 1:
        return dict(manifests[0])
    texts = {
        key: list(dict.fromkeys(text for manifest in manifests for text in manifest.get(key, [])))
        for key in ("not_measured", "remarks")
    }
    return {**manifests[0], **texts, "parts": manifests}


def facts_of(probe: str, data: str, seed: int, manifests: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What captions and the page say beside the table."""
    subject = SUBJECTS.get(probe, Subject(f"{probe.capitalize()} of", ""))
    named = [label for label in manifests if label != CONTROL]
    by_block = {label: m["uniform_by_block_px"] for label, m in manifests.items() if "uniform_by_block_px" in m}
    uniform = {label: m["uniform_distance_px"] for label, m in manifests.items() if m.get("uniform_distance_px")}
    return {
        "title": f"{subject.title} {', '.join(named)}",
        "question": subject.question,
        "data": data,
        "images": min(m["images"] for m in manifests.values()),
        "uniform_px": uniform,
        "uniform_by_block_px": by_block,
        "options": {label: m["options"] for label, m in manifests.items() if m["options"]},
        "seed": seed,
        "order": list(manifests),
        "controls": {label: CONTROL for label in named if CONTROL in manifests},
        "versions": versions(),
        "models": {label: {"source": m["source"], "sha256": m.get("weights", "")} for label, m in manifests.items()},
        "skipped_images": max(int(m.get("skipped", 0)) for m in manifests.values()),
    }
