"""A study in two factors: is it the distillation, or the student's design?

Every kind of pre-training is trained in the plain design and in the student's design, and the plain model of
each kind is distilled into both. Random starts, and a random teacher distilled into the student, are controls.
Every stage is a run folder, so the same call continues what was interrupted and makes again what was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdlab.records.atomic import writable_folder
from fdlab.study import stage
from fdlab.study.parallel import Job, run_jobs

KINDS = ("contrastive", "masked", "supervised")
DESIGNS = ("plain", "student")
FAMILIES = {"contrastive": "contrastive", "masked": "mim", "supervised": "supervised", "random": "random"}
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
        return f"{self.kind}{' distilled' if self.distilled else ''}, {self.design} design"

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
        steps: by kind, "distill", "finetune" and "few"; a stage without one has its recipe's epochs.
        rates: learning rates of the fine-tuning search. few: labels a class. costs: milliseconds a step, for the
        time that is left.
        probe_images, feature_images, curvature_images: of the test images, what each probe sees.
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
    probe_images: int = 256
    feature_images: int = 1000
    curvature_images: int = 128

    def length(self, what: str) -> dict[str, Any]:
        return {"run.steps": self.steps[what], "run.epochs": 0} if what in self.steps else {}


def source(folder: Path, cell: Cell, seed: int) -> str:
    """What opens the cell's model: its run, or the untrained start of a contrastive run of that design."""
    runs = folder / f"seed-{seed}" / "pretrained"
    if cell.kind == "random" and not cell.distilled:
        return f"random:{runs / Cell('contrastive', cell.design).name}"
    return str(runs / cell.name)


def made_by(cell: Cell) -> Cell:
    """The cell whose run has to be there before this one's model can be opened."""
    return Cell("contrastive", cell.design) if cell.kind == "random" and not cell.distilled else cell


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
                after=(source(folder, origin, seed),) if origin else (),
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
    return size.steps.get(what, 0) * size.costs.get(what, 100)


def pretrain(
    folder: str | Path, size: Size, seeds: Sequence[int], *, workers: int = 2, quiet: bool = False
) -> dict[str, Any]:
    """Trains what is missing of the models."""
    folder = writable_folder(folder)
    return run_jobs(pretraining(folder, size, seeds), workers=workers, label="pre-training", quiet=quiet)
