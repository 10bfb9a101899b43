"""The jobs of a two-factor study: trainings, searches of learning rates, few labels, probes; and running them.

Every job's result is a run folder or a record, so the same call continues what was interrupted and makes again what
was lost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fdlab.errors import INTERRUPTED, USAGE, FdlabError
from fdlab.experiments.two_factors import FINE_TUNED, OF_FINE_TUNED, PROBES, Cell, Size, Study
from fdlab.records.atomic import writable_folder, write_json
from fdlab.records.store import Record, Store
from fdlab.records.table import join
from fdlab.study import stage
from fdlab.study.parallel import Job, report, run_jobs
from fdlab.study.rate_search import Start

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

READ_OUT = "teacher_r2"  # the part of a record that is no probe of ``measure``
DESIGN = {"contrastive": "contrastive.model", "masked": "masked.model", "supervised": "classify.design"}


def pretraining(study: Study) -> dict[str, Job]:
    """The trainings of all models; each student waits for its teacher."""
    return {
        study.job(cell, seed): stage.job(
            f"{study.size.recipes}/{cell.recipe}",
            study.run(cell, seed),
            _settings(study, cell, seed),
            label=cell.label,
            family=cell.family,
            needs=(study.job(cell.teacher, seed),) if cell.teacher else (),
            after=study.before(cell, seed),
            cost=study.size.cost(cell.stage),
        )
        for seed in study.seeds
        for cell in dict.fromkeys(cell.trained for cell in study.cells)
    }


def _settings(study: Study, cell: Cell, seed: int) -> dict[str, Any]:
    size = study.size
    settings: dict[str, Any] = {**size.common, **size.length(cell.stage), "run.seed": seed}
    if size.train:
        settings |= {"data.source": size.train, "data.test": "", "data.label_seed": seed}
    if cell.teacher:
        settings["distill.teacher"] = study.source(cell.teacher, seed)
    else:
        settings |= {f"{DESIGN[cell.kind]}.{key}": value for key, value in size.model.items()}
    if cell.stage == "supervised":
        settings["data.validation"] = size.validation  # those that choose the rate later are not learnt from
    return settings


def finetuning(size: Size, kind: str = "finetune") -> dict[str, Any]:
    """The settings that all fine-tunings of a kind ("finetune", "few") share."""
    settings = {**size.common, **size.length(kind), **size.finetune}
    if size.train:
        settings |= {"data.source": size.train, "data.test": size.test, "data.validation": size.validation}
    return settings


def tuning(study: Study) -> dict[str, Job]:
    """The fine-tuning searches, with all labels."""
    size = study.size
    return study.search.jobs(study.starts, f"{size.recipes}/finetune", finetuning(size), size.cost("finetune"))


def few_labels(study: Study) -> dict[str, Job]:
    """Fine-tunings with few labels, each at its model's own best rate of the search with all of them."""
    cost, jobs = study.size.cost("few") if study.size.few else 0, {}
    for start in study.starts:
        needs = tuple(f"{start.name} {rate:g}" for rate in study.size.rates)
        for labels in study.size.few:
            keywords = {"study": study, "start": start, "labels": labels, "cost": cost}
            jobs[f"{start.name} {labels} labels"] = Job(train_few, keywords, needs, cost)
    return jobs


def train_few(study: Study, start: Start, labels: int, cost: int) -> None:
    """One fine-tuning with few labels; none where no rate of the search has a result."""
    size, search = study.size, study.search
    rate, some = search.best_rate(start), search.rates[0]
    after = start.after if rate else (*start.after, str(search.run(start, some).path))
    settings = {**finetuning(size, "few"), **start.settings, "data.per_class": labels, "optim.lr": rate or some}
    run = str(study.few_run(start, labels))
    stage.train(f"{size.recipes}/finetune", None, settings, run, start.label, start.family, after, cost)


def probing(study: Study, records: Iterable[str] | None = None) -> dict[str, Job]:
    """What the probes are asked of every model; ``records`` names some of the records, by default all."""
    jobs = {}
    for seed in study.seeds:
        for cell in study.cells:
            for record, parts in study.size.asked(cell, seed).items():
                if records is None or record in records:
                    models = [cell, *(part["teacher"] for part in parts if "teacher" in part)]
                    needs = tuple(dict.fromkeys(study.job(model, seed) for model in models))
                    if record in FINE_TUNED:
                        needs = tuple(f"{study.start(cell, seed).name} {rate:g}" for rate in study.size.rates)
                    cost = study.size.costs.get("hessian" if record in FINE_TUNED else record, 1000)
                    keywords = {"study": study, "cell": cell, "seed": seed, "record": record, "cost": cost}
                    jobs[f"{record} {cell.name} {seed}"] = Job(probed, keywords, needs, cost)
    return jobs


def probed(study: Study, cell: Cell, seed: int, record: str, cost: int) -> None:
    """What one or more calls of ``measure`` say of one model, as one record, unless the record is there.

    ``seed`` is the training's. A probe that fails on one model does not stop the others: the reason is kept beside
    the record, and the next call tries again. A model that diverged has no record.
    """
    size, folder = study.size, study.record(cell, seed, record)
    run, source, before = _measured(study, cell, seed, record)
    if not run:
        write_json(writable_folder(folder) / "failed.json", {"why": "no fine-tuning of it has a result"})
        report(cost)
        return
    parts = [_opened(study, part, seed) for part in size.asked(cell, seed)[record]]
    # In the question another model is known by its weights, not by its folder.
    asked = [part | {"teacher": stage.digest(part["teacher"])} if "teacher" in part else part for part in parts]
    question = {"model": stage.digest(run), "untrained": source.startswith("random:"), "seed": seed, "probe": record}
    question |= {"parts": asked, "data": size.test, "images": size.seen(record)}
    if not stage.failure(run, before):
        try:
            stage.once(folder, question, lambda: _answer(study, cell, seed, record, parts, source))
            (folder / "failed.json").unlink(missing_ok=True)
        except FdlabError as error:
            if error.code in (USAGE, INTERRUPTED):
                raise
            write_json(folder / "failed.json", {"why": error.what})
    report(cost)


def _measured(study: Study, cell: Cell, seed: int, record: str) -> tuple[str, str, tuple[str, ...]]:
    """Run, SOURCE and earlier runs of what a record is of: the model or, if there is one, its best fine-tuning."""
    if record not in FINE_TUNED:
        return study.run(cell, seed), study.source(cell, seed), study.before(cell, seed)
    start = study.start(cell, seed)
    rate = study.search.best_rate(start)
    run = "" if rate is None else str(study.search.run(start, rate).path)
    return run, run, start.after


def _opened(study: Study, part: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A part of a record, with the run in place of the cell that it names as ``teacher``."""
    return {**part, "teacher": study.run(part["teacher"], seed)} if "teacher" in part else dict(part)


def _answer(
    study: Study, cell: Cell, seed: int, record: str, parts: Sequence[Mapping[str, Any]], source: str
) -> Record:
    from fdlab.checkpoints.open import open_model
    from fdlab.encoders.devices import pick_device

    size, store = study.size, study.size.layout["store"]
    device = pick_device(size.common.get("run.device", "cpu"))
    encoder = open_model(source, seed=seed, device=device)
    # Each seed of the training is measured on images of its own, the same for all models of it: what an interval over
    # seeds holds is then the scatter of images too.
    shared = {"probe": record, "data": size.test, "images": size.seen(record), "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        kept = Store(study.folder / store if store else folder)
        answers = [_part(encoder, cell.label, kept, **{**shared, **part}) for part in parts]
    table = join(answer.table for answer in answers).assign(family=cell.family, seed=seed)
    if record in FINE_TUNED:
        table = table.assign(probe=OF_FINE_TUNED)
    arrays = {name: array for answer in answers for name, array in answer.arrays.items()}
    return Record(table, arrays, {key: value for answer in reversed(answers) for key, value in answer.manifest.items()})


def _part(
    encoder: Encoder,
    label: str,
    store: Store,
    *,
    probe: str,
    rows: Sequence[str] = (),
    arrays: bool | Sequence[str] = (),
    **settings: Any,
) -> Record:
    """One call of ``measure``, of which the metrics ``rows`` (by default all) and some per-image arrays are kept."""
    from fdlab.probes.measure import measure

    if probe == READ_OUT:
        record = _read_out(encoder, label, **settings)
    else:
        record = measure(probe, {label: encoder}, store=store, **settings).attrs["record"][label]
    table = record.table[record.table["metric"].isin(rows)] if rows else record.table
    kept = record.arrays if arrays is True else {name: record.arrays[name] for name in arrays or ()}
    return Record(table, kept, record.manifest)


def _read_out(encoder: Encoder, label: str, teacher: str, fit: str, data: str, images: int, seed: int) -> Record:
    """``teacher_r2``: how much of a teacher a ridge, fitted on the images ``fit``, reads out of the model."""
    from fdlab.checkpoints.open import open_model
    from fdlab.data.sources import open_data
    from fdlab.probes.teacher import measure_teacher_r2, position_mean_loss

    target, size = open_model(teacher), encoder.info.image_size
    side = size if isinstance(size, int) else max(size)
    fitted, held = (open_data(name) for name in (fit, data))
    ridge, _ = fitted.stack(range(len(fitted)), side)
    tested, _ = held.stack(range(min(images, len(held))), side)
    record = measure_teacher_r2(encoder, target, ridge, tested, label=label, seed=seed)
    record.manifest["position_only_loss"] = position_mean_loss(target, ridge, tested)
    return record


def passes(study: Study) -> dict[str, dict[str, Job]]:
    """Every stage of the study, what tells most for its time first; a pass needs the passes before it."""
    quick = [probe for probe in PROBES if probe != "hessian"]
    return {
        "models": pretraining(study),
        "probes": probing(study, quick),
        "fine-tuning": tuning(study),
        "curvature": probing(study, ["hessian"]),
        "curvature after fine-tuning": probing(study, FINE_TUNED),
        "few labels": few_labels(study),
    }


def check(size: Size, seeds: Sequence[int]) -> None:
    """Opens the images once, before hours of training (and before two workers would download them).

    Raises:
        FdlabError: code 2, a seed is given twice, or there are too few images.
    """
    from fdlab.data.sources import open_data

    if len(set(seeds)) < len(seeds) or not seeds:
        raise FdlabError("A seed is given twice, or none.", fix="Give each seed once.", code=USAGE)
    train, test = open_data(size.train), open_data(size.test)
    wanted = size.validation + max(size.few) * max(len(train.classes or ()), 1)
    if len(train) <= wanted or len(test) < max(size.images.values()):
        raise FdlabError(
            f"There are {len(train)} training and {len(test)} test images.",
            f"More than {wanted} and at least {max(size.images.values())} are needed.",
            "Name more images with --train and --test.",
            code=USAGE,
        )


def run(study: Study, *, workers: int = 2, quiet: bool = False) -> None:
    """Trains and measures what is missing.

    Raises:
        FdlabError: code 2, a seed is given twice, or the images cannot be read or are too few (before any training).
    """
    check(study.size, study.seeds)
    writable_folder(study.folder)
    for label, jobs in passes(study).items():
        alone = {name: replace(job, needs=tuple(n for n in job.needs if n in jobs)) for name, job in jobs.items()}
        run_jobs(alone, workers=workers, label=label, quiet=quiet)
