"""A study in two factors: is it the distillation, or the student's design?

Every kind of pre-training is trained in the plain design and in the student's design, and the plain model of
each kind is distilled into both. Random starts, and a random teacher distilled into the student, are controls.
Every stage is a run folder, so the same call continues what was interrupted and makes again what was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fdlab.errors import USAGE, FdlabError
from fdlab.experiments import stages
from fdlab.records.atomic import writable_folder
from fdlab.study import rate_search, stage
from fdlab.study.parallel import Job, run_jobs
from fdlab.study.rate_search import Start

KINDS = ("contrastive", "masked", "supervised")
DESIGNS = ("plain", "student")
FAMILIES = {"contrastive": "contrastive", "masked": "mim", "supervised": "supervised", "random": "random"}
RECIPE, FINETUNED = "cifar/finetune", "finetuned"
# What each probe is asked for; the rest of its settings are its defaults.
PROBES: dict[str, tuple[dict[str, Any], ...]] = {
    "attention": ({},),
    "features": ({"metrics": ("knn", "linear_probe"), "pooling": ("patches", "attentive")},),
    "sharpness": ({"part": "average"}, {"part": "noise"}),
    "hessian": ({"part": "balanced", "k": 1, "probes": 0},),
}
_MODEL = {"contrastive": "contrastive.model", "masked": "masked.model", "supervised": "classify.design"}


@dataclass(frozen=True)
class Cell:
    """One model of the study: how it was pre-trained, in which design, and whether by distillation.

    For a distilled model ``kind`` is its teacher's, and the teacher is always of the plain design.
    """

    kind: str
    design: str
    distilled: bool = False

    @property
    def label(self) -> str:
        return f"{self.kind}{' distilled' if self.distilled else ''}, {self.design}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.design}{'-distilled' if self.distilled else ''}"

    @property
    def family(self) -> str:
        return "distilled" if self.distilled else FAMILIES[self.kind]

    @property
    def teacher(self) -> Cell | None:
        return Cell(self.kind, "plain") if self.distilled else None

    @property
    def control(self) -> Cell:
        """The same design before its first step."""
        return Cell("random", self.design)

    @property
    def recipe(self) -> str:
        if self.distilled:
            return "cifar/distill" if self.design == "student" else "cifar/distill-same"
        return f"cifar/{self.kind}{'-student' if self.design == 'student' else ''}"


CELLS = (
    *(Cell(kind, design) for kind in (*KINDS, "random") for design in DESIGNS),
    *(Cell(kind, design, distilled=True) for kind in KINDS for design in DESIGNS),
    Cell("random", "student", distilled=True),
)


@dataclass(frozen=True)
class Size:
    """How large a study is. Everything else is in the packaged recipes.

    Args:
        train, test: images (``--data`` grammar). validation: training images held out for choosing rates.
        common: settings of every training. model: of every pre-trained model (width, depth, heads).
        steps: of each kind, "distill", "finetune" and "few".
        rates: learning rates of the fine-tuning search. few: labels a class. costs: milliseconds a step, for the
        time that is left.
        images: of the test images, how many each probe sees.
    """

    name: str
    train: str
    test: str
    validation: int
    common: Mapping[str, Any]
    rates: tuple[float, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    few: tuple[int, ...] = (20, 200)
    costs: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(
        default_factory=lambda: {"attention": 256, "features": 1000, "hessian": 32, "sharpness": 128}
    )

    def length(self, what: str) -> dict[str, Any]:
        return {"run.steps": self.steps[what], "run.epochs": 0}


def source(folder: Path, cell: Cell, seed: int) -> str:
    """What opens the cell's model: its run, or the untrained start of a contrastive run of that design."""
    runs = folder / f"seed-{seed}" / "pretrained"
    if cell.kind == "random" and not cell.distilled:
        return f"random:{runs / Cell('contrastive', cell.design).name}"
    return str(runs / cell.name)


def made_by(cell: Cell) -> Cell:
    """The cell whose run has to be there before this one's model can be opened."""
    return Cell("contrastive", cell.design) if cell.kind == "random" and not cell.distilled else cell


def before(folder: Path, cell: Cell, seed: int) -> tuple[str, ...]:
    """The run of a distilled model's teacher, without which it cannot begin."""
    return (source(folder, made_by(cell.teacher), seed),) if cell.teacher else ()


def pretraining(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> dict[str, Job]:
    """The trainings of all models, teachers before their students."""
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for cell in dict.fromkeys(made_by(cell) for cell in cells):
            origin = made_by(cell.teacher) if cell.teacher else None
            jobs[f"{cell.name} {seed}"] = stage.job(
                cell.recipe,
                source(folder, cell, seed),
                _settings(folder, size, cell, seed),
                label=cell.label,
                family=cell.family,
                needs=(f"{origin.name} {seed}",) if origin else (),
                after=before(folder, cell, seed),
                cost=_cost(size, "distill" if cell.distilled else cell.kind),
            )
    return jobs


def _settings(folder: Path, size: Size, cell: Cell, seed: int) -> dict[str, Any]:
    what = "distill" if cell.distilled else cell.kind
    settings: dict[str, Any] = {**size.common, **size.length(what), "run.seed": seed}
    settings |= {"data.source": size.train, "data.test": "", "data.label_seed": seed}
    if cell.teacher:
        settings["distill.teacher"] = source(folder, cell.teacher, seed)
    else:
        settings |= {f"{_MODEL[cell.kind]}.{key}": value for key, value in size.model.items()}
    if cell.kind == "supervised" and not cell.distilled:
        settings["data.validation"] = size.validation  # those that choose the rate later are not learnt from
    return settings


def _cost(size: Size, what: str) -> int:
    return size.steps[what] * size.costs.get(what, 100)


def starts(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> list[Start]:
    """Where the fine-tunings begin, a model and seed each."""
    return [
        Start(
            cell.label,
            source(folder, cell, seed),
            seed,
            cell.family,
            overrides={"classify.bias_scale": 10} if cell.design == "student" else {},
            needs=(f"{made_by(cell).name} {seed}",),
            after=(*before(folder, cell, seed), source(folder, made_by(cell), seed)),
        )
        for seed in seeds
        for cell in cells
    ]


def finetuning(size: Size) -> dict[str, Any]:
    """The settings of every fine-tuning."""
    settings = {**size.common, **size.length("finetune"), **size.finetune, "run.log_every": 5}
    settings |= {"data.source": size.train, "data.test": size.test, "data.validation": size.validation}
    return settings


def tuning(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> dict[str, Job]:
    """The fine-tuning searches, with all labels."""
    own = starts(folder, size, seeds, cells)
    return rate_search.jobs(own, size.rates, folder / FINETUNED, RECIPE, finetuning(size), _cost(size, "finetune"))


def few_labels(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> dict[str, Job]:
    """Fine-tunings with few labels, each at its model's own best rate of the search."""
    jobs = {}
    for start in starts(folder, size, seeds, cells):
        for labels in size.few:
            settings = {**finetuning(size), **size.length("few"), **start.overrides, "data.per_class": labels}
            settings |= {"classify.model": start.source, "run.seed": start.seed, "data.label_seed": start.seed}
            keywords = {"recipe": RECIPE, "tuned": str(folder / FINETUNED), "start": start, "rates": size.rates}
            keywords |= {"settings": settings, "run": str(few_run(folder, start, labels)), "cost": _cost(size, "few")}
            needs = tuple(f"{start.name} {rate:g}" for rate in size.rates)
            jobs[f"{start.name} {labels} labels"] = Job(stages.few_labels, keywords, needs, keywords["cost"])
    return jobs


def probing(
    folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS, probes: Iterable[str] = PROBES
) -> dict[str, Job]:
    """The probes on every model."""
    jobs = {}
    for probe in probes:
        for seed in seeds:
            for cell in cells:
                keywords: dict[str, Any] = {
                    "model": source(folder, cell, seed),
                    "label": cell.label,
                    "family": cell.family,
                }
                keywords |= {"seed": seed, "probe": probe, "parts": PROBES[probe], "data": size.test}
                keywords |= {"images": size.images[probe], "record": str(record_of(folder, cell, seed, probe))}
                keywords["after"] = before(folder, cell, seed)
                keywords |= {"device": size.common.get("run.device", "cpu"), "cost": size.costs.get(probe, 1000)}
                needs = (f"{made_by(cell).name} {seed}",)
                jobs[f"{probe} {cell.name} {seed}"] = Job(stages.measured, keywords, needs, keywords["cost"])
    return jobs


def passes(folder: Path, size: Size, seeds: Sequence[int], cells: Sequence[Cell] = CELLS) -> dict[str, dict[str, Job]]:
    """Every stage of the study, what tells most for its time first; a pass needs the passes before it."""
    where = (folder, size, seeds, cells)
    quick = [probe for probe in PROBES if probe != "hessian"]
    return {
        "models": pretraining(*where),
        "probes": probing(*where, probes=quick),
        "fine-tuning": tuning(*where),
        "curvature": probing(*where, probes=["hessian"]),
        "few labels": few_labels(*where),
    }


def few_run(folder: Path, start: Start, labels: int) -> Path:
    """The run of one model and seed with so many labels a class."""
    return folder / "few" / f"{start.name}_{labels}"


def record_of(folder: Path, cell: Cell, seed: int, probe: str) -> Path:
    """Where a probe's answer on one model and seed is kept."""
    return folder / "records" / f"seed-{seed}" / f"{cell.name}-{probe}"


def check(size: Size, seeds: Sequence[int]) -> None:
    """Opens the images once, before hours of training (and before two workers would download them)."""
    from fdlab.data.sources import open_data

    if len(set(seeds)) < len(seeds) or not seeds:
        raise FdlabError("A seed is given twice, or none.", "", "Give each seed once.", USAGE)
    train, test = open_data(size.train), open_data(size.test)
    wanted = size.validation + max(size.few) * max(len(train.classes), 1)
    if len(train) <= wanted or len(test) < max(size.images.values()):
        raise FdlabError(
            f"There are {len(train)} training and {len(test)} test images.",
            f"More than {wanted} and at least {max(size.images.values())} are needed.",
            "Name more images with --train and --test.",
            code=USAGE,
        )


def run(
    folder: str | Path,
    size: Size,
    seeds: Sequence[int],
    cells: Sequence[Cell] = CELLS,
    *,
    workers: int = 2,
    quiet: bool = False,
) -> None:
    """Trains and measures what is missing.

    Raises:
        FdlabError: code 2, a seed given twice, or images that cannot be had or are too few (before any training).
    """
    check(size, seeds)
    for label, jobs in passes(writable_folder(folder), size, seeds, cells).items():
        alone = {name: replace(job, needs=tuple(n for n in job.needs if n in jobs)) for name, job in jobs.items()}
        run_jobs(alone, workers=workers, label=label, quiet=quiet)
