"""``fdlab compare``: several probes on several models, the same images, and every difference with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fdlab.checkpoints.open import open_module
from fdlab.checkpoints.own_code import live_source
from fdlab.checkpoints.sources import parse_label
from fdlab.compare.cohort import Cohort, cohort_of
from fdlab.encoders.encoder import Encoder
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.probes.fitting import NotForModel
from fdlab.probes.probe import find_probe
from fdlab.records.atomic import writable_folder
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, join
from fdlab.report.explorer import SLOTS
from fdlab.study.diagnosis import Gathered, facts_of, gather, left_out, save_records
from fdlab.study.explore import explore
from fdlab.study.publish import write_report
from fdlab.study.stating import accuracies, changes, findings, trainings

# Which parts of a probe a comparison takes, and on how many images at most: these cost many passes.
PARTS = {
    "attribution": ("curves", "heads"),
    "hessian": ("whole", "balanced"),
    "sharpness": ("average", "worst", "noise"),
}
AT_MOST = {"attribution": 32, "hessian": 128, "sharpness": 128, "landscape": 128}


def compare(
    models: Sequence[Any] | Mapping[str, Any] | Cohort,
    data: str,
    out: str | Path,
    *,
    probes: Sequence[str] = ("attention", "features"),
    baseline: str = "",
    teacher: str = "",
    images: int = 256,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 32,
    fresh: bool = False,
    control: bool = True,
    quiet: bool = False,
    explorer: bool = False,
    command: str = "fdlab compare",
) -> dict[str, Any]:
    """Measures what the store does not hold, takes the differences and writes the report.

    Args:
        models: SOURCE, label=SOURCE or a module of your own each, {label: any of these}, or a cohort.
        probes: by name; curvature probes see 128 images at most, attribution 32.
        baseline: the label that the others are compared with; the first model by default.
        teacher: SOURCE: the feature probe also measures ``teacher_r2`` of it, with differences.
        control: add the first model's untrained start, unless the cohort names controls.
        explorer: also write ``explore.html``, the maps of four images of the first models that have attention.

    Returns:
        ``page``, ``table``, ``findings`` (``compare.findings.Finding.fact``), ``summary`` (text), ``pairs`` (text)
        and ``notes``.

    Raises:
        FdlabError: code 2, an unknown probe or baseline, a teacher without features; and what opening and measuring
            raise.
    """
    from fdlab.report.numbers import readable
    from fdlab.report.pairs import pairwise
    from fdlab.report.report import Report

    folder = writable_folder(out)
    cohort = models if isinstance(models, Cohort) else cohort_of(_sources(models), baseline)
    for probe in probes:
        find_probe(probe)
    if teacher and "features" not in probes:
        raise FdlabError("A teacher is for the probe features.", fix="Add features to --probes.", code=USAGE)
    added = control and not any(member.control for member in cohort.model)
    settings = {"seed": seed, "device": device, "batch": batch, "fresh": fresh, "quiet": quiet, "random_control": added}
    results, nowhere = _gathered(cohort, data, probes, images, teacher, settings)
    for probe, result in results.items():
        save_records(folder / "records" / probe, result.records)
    records = {probe: result.records for probe, result in results.items()}
    differences, not_taken = changes(cohort, records, seed)
    table = join([*(r.table for r in results.values()), differences, accuracies(cohort, trainings(cohort))])
    families = Report(table).families | {member.label: member.family for member in cohort.model if member.family}
    table = table.assign(family=[families.get(label, "") for label in table["model"]])
    notes = list(dict.fromkeys(note for result in results.values() for note in result.notes)) + not_taken
    notes += [sentence for error in nowhere for sentence in error.left_out]
    notes += _about_models(cohort, families, {k: v for result in results.values() for k, v in result.records.items()})
    facts = {**_facts(cohort, results, data, seed, added), "notes": notes, "command": command}
    facts["findings"] = findings(table, cohort, records, facts["uniform_px"])
    if explorer:
        facts["explorer"] = _explored(cohort, data, folder, seed, device, quiet, notes)
    report = Report(table, facts)
    page, summary, pairs = write_report(folder, report), readable(report.summary()), pairwise(report)
    said = list(dict.fromkeys(note for result in results.values() for note in left_out(result.records)))
    shown = {"summary": summary, "pairs": pairs, "findings": facts["findings"]}
    return {"page": page, "table": table, "notes": [*said, *notes], **shown}


def _gathered(
    cohort: Cohort, data: str, probes: Sequence[str], images: int, teacher: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Gathered], list[NotForModel]]:
    """{probe: what it found}, and the errors of probes that are for none of the models while others are."""
    results, nowhere = dict[str, Gathered](), list[NotForModel]()
    for probe in probes:
        own = {"teacher": teacher} if teacher and probe == "features" else {}
        most = min(images, AT_MOST.get(probe, images))
        try:
            results[probe] = gather(
                probe, cohort.sources(), data, parts=PARTS.get(probe, ()), images=most, **settings, **own
            )
        except NotForModel as error:
            nowhere.append(error)
    if not results:
        raise nowhere[0]
    return results, nowhere


def _explored(cohort: Cohort, data: str, folder: Path, seed: int, device: str, quiet: bool, notes: list[str]) -> str:
    """Writes the attention explorer of the first models; its file's name, or none with a note that says why."""
    shown = dict(list(cohort.sources().items())[:SLOTS])
    try:
        made = explore(shown, data, folder, seed=seed, device=device, quiet=quiet)
    except FdlabError as error:
        notes.append(f"No explorer was written: {error.what} {error.why}".strip())
        return ""
    notes += [f"Explorer: {note}" for note in made.notes]
    return made.path.name


def _about_models(cohort: Cohort, families: Mapping[str, str], records: Mapping[str, Record]) -> list[str]:
    """Sentences on models that are the same, and on families that neither file nor cohort states."""
    manifests = {label: records[label].manifest for label in cohort.labels()}
    by_weights: dict[str, list[str]] = {}
    for label, manifest in manifests.items():
        by_weights.setdefault(manifest.get("weights") or label, []).append(label)
    notes = [f"The same weights under several names: {', '.join(same)}." for same in by_weights.values() if same[1:]]
    unknown = [member.label for member in cohort.model if families.get(member.label, "") in ("", "unknown")]
    if unknown:
        notes.append(
            f"The family of {', '.join(unknown)} is unknown: several trainings leave such a file. "
            "A cohort file states it (family = ...)."
        )
    return notes


def _facts(cohort: Cohort, results: Mapping[str, Gathered], data: str, seed: int, added: bool) -> dict[str, Any]:
    """The facts of all probes as one: what is said by model is joined, the rest is the first probe's."""
    facts: dict[str, Any] = {}
    for probe, result in results.items():
        of_probe = facts_of(probe, data, seed, {label: record.manifest for label, record in result.records.items()})
        for key, value in of_probe.items():
            facts[key] = {**value, **facts.get(key, {})} if isinstance(value, dict) else facts.get(key, value)
    labels = cohort.labels()
    facts["title"] = f"{len(labels)} models compared: {', '.join(labels)}"
    facts["question"] = "How do these models differ, on the same images, beyond what the images' scatter explains?"
    facts |= cohort.facts()
    facts["order"] += [CONTROL] if added else []
    if first := next((member for member in cohort.model if member.pair_of), None):
        facts["compare"] = [first.pair_of, first.label]
    elif cohort.baseline and len(labels) > 1:
        facts["compare"] = [cohort.baseline, next(label for label in labels if label != cohort.baseline)]
    return facts


def snapshots_of(run: str | Path) -> list[str]:
    """A run's snapshots and its end as models (``step N=FILE``), so that probes can be drawn against steps.

    Raises:
        FdlabError: code 3, the run kept none.
    """
    files = sorted((Path(run) / "snapshots").glob("step-*.safetensors"))
    if not files:
        raise FdlabError(
            f"{run} kept no snapshots.",
            "A comparison over a run needs the encoder along the way.",
            "Train with --set save.snapshots=N (steps between them).",
            code=NOT_UNDERSTOOD,
        )
    return [f"step {int(path.stem.removeprefix('step-'))}={path}" for path in files]


def _sources(models: Any) -> list[tuple[str, str]]:
    """(label, SOURCE) of each model; a module of this process gets a name that a cohort can hold."""
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        pairs = [("", model) for model in models]
    named = []
    for label, model in pairs:
        if isinstance(model, (nn.Module, Encoder)):
            inner = model.module if isinstance(model, Encoder) else model
            encoder = model if isinstance(model, Encoder) else open_module(model)
            named.append((label or type(inner).__name__, live_source(encoder)))
        else:
            named.append((label, str(model)) if label else parse_label(str(model)))
    return named
