"""A study in two factors: is it the distillation, or the student's design?

Every kind of pre-training is trained in the plain design and in the student's design, and the plain model of each
kind is distilled into both. Random starts, and a random teacher distilled into the student, are controls. ``Cell`` is
one model, ``Size`` says how large a study is, ``Study`` is one study on disk; ``stages.py`` trains and measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fdlab.study.rate_search import Search, Start

KINDS = ("contrastive", "masked", "supervised")
DESIGNS = ("plain", "student")
FAMILIES = {"contrastive": "contrastive", "masked": "mim", "supervised": "supervised", "random": "random"}
# What each probe is asked for; the rest of its settings are its defaults.
PROBES: dict[str, tuple[dict[str, Any], ...]] = {
    "attention": ({},),
    "features": ({"metrics": ("knn", "linear_probe"), "pooling": ("patches", "attentive")},),
    "sharpness": ({"part": "average"}, {"part": "noise"}),
    "hessian": ({"part": "balanced", "k": 1, "probes": 0},),
}
# The same of every model after its fine-tuning at its best rate: around those weights, as the paper has it, on clean
# images, on images augmented as in its training, and at one loss. Records of these names are of the fine-tuned model.
_CURVED = {"probe": "hessian", "part": "balanced", "k": 1, "probes": 0}
FINE_TUNED: dict[str, tuple[dict[str, Any], ...]] = {
    "fine-tuned": ({**_CURVED, "objective": "classifier"},),
    "fine-tuned-augmented": ({**_CURVED, "objective": "fine-tuning"},),
    "fine-tuned-one-loss": ({**_CURVED, "objective": "classifier@2"},),  # ten classes: a guess has 2.3
}
OF_FINE_TUNED = "fine_tuned"  # the probe of their rows: they are no measure of the model that was fine-tuned
BIAS_SCALE = 10  # the student's shared bias is fine-tuned behind the factor that it was trained behind


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
        """The name that figures and tables show."""
        return f"{self.kind}{' distilled' if self.distilled else ''}, {self.design}"

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return f"{self.kind}-{self.design}{'-distilled' if self.distilled else ''}"

    @property
    def untrained(self) -> bool:
        """Whether this is a random start."""
        return self.kind == "random" and not self.distilled

    @property
    def family(self) -> str:
        """The display family."""
        return "distilled" if self.distilled else FAMILIES[self.kind]

    @property
    def teacher(self) -> Cell | None:
        """The model that a distilled one learned from."""
        return replace(self, design="plain", distilled=False) if self.distilled else None

    @property
    def control(self) -> Cell:
        """The same design before its first step."""
        return replace(self, kind="random", distilled=False)

    @property
    def trained(self) -> Cell:
        """The cell whose run must exist before this model can be opened: a random start is that of a trained model."""
        return replace(self, kind="contrastive") if self.untrained else self

    @property
    def stage(self) -> str:
        """The kind of training that makes it, as ``Size.steps`` and ``Size.costs`` name it."""
        return "distill" if self.distilled else self.kind

    @property
    def recipe(self) -> str:
        """The packaged recipe, without its folder."""
        if self.distilled:
            return "distill" if self.design == "student" else "distill-same"
        return f"{self.kind}{'-student' if self.design == 'student' else ''}"


CELLS = (
    *(Cell(kind, design) for kind in (*KINDS, "random") for design in DESIGNS),
    *(Cell(kind, design, distilled=True) for kind in KINDS for design in DESIGNS),
    Cell("random", "student", distilled=True),
)


Parts = Sequence[Mapping[str, Any]]
# Where runs and records lie below a study's folder.
LAYOUT = {
    "model": "seed-{seed}/pretrained/{cell.name}",
    "tuned": "finetuned/{start.name}/lr-{rate:g}",
    "few": "few/{start.name}_{labels}",
    "record": "records/seed-{seed}/{cell.name}-{record}",
    "store": "records/store",  # parts of records, until a record is complete; "": none is kept
}
# The runs whose seconds are summed, by kind.
SECONDS: dict[str, tuple[str, ...]] = {
    "pre-training and distilling": ("seed-*/pretrained/*",),
    "fine-tuning": ("finetuned/*/*",),
    "few labels": ("few/*",),
}


def every_probe(_cell: Cell, _seed: int) -> Mapping[str, Parts]:
    """``PROBES`` and ``FINE_TUNED`` for every model."""
    return PROBES | FINE_TUNED


@dataclass(frozen=True)
class Size:
    """How large a study is. Everything else is in the packaged recipes.

    Args:
        train, test: images (``--data`` grammar); an empty ``train`` leaves the training images to the recipes.
        validation: training images held out for choosing rates.
        common: settings of every training. model: of every pre-trained model (width, depth, heads).
        steps: of each kind, "distill", "finetune" and "few". finetune: settings of every fine-tuning.
        rates: learning rates of the fine-tuning search. few: labels a class.
        costs: milliseconds a step, for the time that is left.
        images: of the test images, how many each record's probes see; those of ``FINE_TUNED`` as many as "hessian".
        asked: cell and seed -> the parts of each record (``stages.probed``), by the record's name.
        recipes: the folder of packaged recipes. layout, seconds: as ``LAYOUT`` and ``SECONDS``.
    """

    name: str
    test: str
    rates: tuple[float, ...]
    train: str = ""
    validation: int = 0
    common: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, int] = field(default_factory=dict)
    finetune: Mapping[str, Any] = field(default_factory=lambda: {"run.log_every": 5})
    few: tuple[int, ...] = (20, 200)
    costs: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(
        default_factory=lambda: {"attention": 256, "features": 1000, "hessian": 512, "sharpness": 512}
    )
    asked: Callable[[Cell, int], Mapping[str, Parts]] = every_probe
    recipes: str = "cifar"
    layout: Mapping[str, str] = field(default_factory=lambda: LAYOUT)
    seconds: Mapping[str, Sequence[str]] = field(default_factory=lambda: SECONDS)

    def seen(self, record: str) -> int:
        """How many test images a record's probes see."""
        return self.images["hessian" if record in FINE_TUNED else record]

    def length(self, kind: str) -> dict[str, Any]:
        """The settings that make a training of this kind as long as it shall be."""
        return {"run.steps": self.steps[kind], "run.epochs": 0}

    def cost(self, kind: str) -> int:
        """The milliseconds of one training of this kind, about."""
        return self.steps[kind] * self.costs.get(kind, 100)


@dataclass(frozen=True)
class Study:
    """One study: the folder of its runs and records, its size, its seeds and its models."""

    folder: Path
    size: Size
    seeds: Sequence[int]
    cells: Sequence[Cell] = CELLS

    def run(self, cell: Cell, seed: int) -> str:
        """The folder of the run that must exist before the cell's model can be opened."""
        return str(self.folder / self.size.layout["model"].format(cell=cell.trained, seed=seed))

    def source(self, cell: Cell, seed: int) -> str:
        """What opens the cell's model: its run, or the untrained start of a trained model of that design."""
        return ("random:" if cell.untrained else "") + self.run(cell, seed)

    def before(self, cell: Cell, seed: int) -> tuple[str, ...]:
        """The run of a distilled model's teacher, without whose result it cannot begin."""
        return (self.run(cell.teacher, seed),) if cell.teacher else ()

    def job(self, cell: Cell, seed: int) -> str:
        """The name of the job that trains what the cell's model is opened from."""
        return f"{cell.trained.name} {seed}"

    def few_run(self, start: Start, labels: int) -> Path:
        """The run of one model and seed with so many labels a class."""
        return self.folder / self.size.layout["few"].format(start=start, labels=labels)

    def record(self, cell: Cell, seed: int, name: str) -> Path:
        """Where the answers of one record's probes on one model and seed are kept."""
        return self.folder / self.size.layout["record"].format(cell=cell, seed=seed, record=name)

    @property
    def search(self) -> Search:
        """The search of each model's learning rate."""
        return Search(self.folder, self.size.rates, self.size.layout["tuned"])

    def start(self, cell: Cell, seed: int) -> Start:
        """Where the fine-tunings of one model and seed begin."""
        return Start(
            cell.label,
            self.source(cell, seed),
            seed,
            cell.family,
            overrides={"classify.bias_scale": BIAS_SCALE} if cell.design == "student" else {},
            needs=(self.job(cell, seed),),
            after=(*self.before(cell, seed), self.run(cell, seed)),
        )

    @property
    def starts(self) -> list[Start]:
        """Where all fine-tunings begin."""
        return [self.start(cell, seed) for seed in self.seeds for cell in self.cells]
