"""The two-factor study at digit size: its models, what they are asked, and the ruler beside them.

The models are a contrastive teacher and a masked one, the teacher distilled into the paper's student and, as the
control, into its own architecture, and a random start of each design. ``demo.py`` trains, measures and reports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fdlab.experiments.stages import READ_OUT
from fdlab.experiments.two_factors import Cell, Parts, Size, Study
from fdlab.records.intervals import mean_interval
from fdlab.records.run_folder import RunFolder, slug
from fdlab.records.store import Record
from fdlab.records.table import frame, join
from fdlab.study import stage
from fdlab.study.parallel import Job, report

FULL_MINUTES = 5.0
ALPHAS = (0.0, 0.5, 1.0)  # of the ruler's data, from near to far
RULER_STEPS, RULER_COST, RULER_IMAGES = 220, 70, 128
HELD_OUT, RIDGE_IMAGES = 256, 400
CURVED = 32  # labelled digits whose mean loss is looked at
ATTRIBUTED, AVERAGED = 8, 64  # images whose score is taken apart; images over which maps are averaged
FEATURES = ("cka", "effective_rank", "singular_value", "high_frequency", "token_similarity", "uniformity")

# (kind, design, distilled) -> the label in tables and figures, the folder of the run
NAMES = {
    ("contrastive", "plain", False): ("contrastive teacher", "contrastive"),
    ("masked", "plain", False): ("masked modelling", "masked"),
    ("contrastive", "plain", True): ("distilled, same design", "distilled-same"),
    ("contrastive", "student", True): ("distilled, paper's student", "distilled-student"),
    ("random", "plain", False): ("random, plain design", "random-plain"),
    ("random", "student", False): ("random, student design", "random-student"),
}


@dataclass(frozen=True)
class DigitsCell(Cell):
    """A model of the demo, which has names of its own and no student design trained without a teacher."""

    @property
    def label(self) -> str:
        """The name that figures and tables show."""
        return NAMES[self.kind, self.design, self.distilled][0]

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return NAMES[self.kind, self.design, self.distilled][1]

    @property
    def slug(self) -> str:
        """The label as a folder's name."""
        return slug(self.label)

    @property
    def trained(self) -> Cell:
        """The cell whose run must exist first; the student's random start is that of the distilled student."""
        return replace(self, kind="contrastive", distilled=self.design == "student") if self.untrained else self


CELLS = tuple(DigitsCell(*place) for place in NAMES)
TEACHER, MASKED, SAME_DESIGN, STUDENT, RANDOM, RANDOM_STUDENT = CELLS


def asked(cell: Cell, seed: int) -> Mapping[str, Parts]:
    """What is measured on the first held-out digits, by record; curvature and averaged maps of some models alone."""
    shared: dict[str, Any] = {"seed": seed, "data": f"digits#test[:{HELD_OUT}]"}
    records = {
        "model": [
            {**shared, "probe": "attention", "arrays": True},
            # CKA between models follows from these arrays
            {**shared, "probe": "features", "metrics": FEATURES, "arrays": ("gram", "gram_sizes")},
            {**shared, "probe": READ_OUT, "teacher": TEACHER, "fit": f"digits#train[:{RIDGE_IMAGES}]", "arrays": True},
        ]
    }
    shared["data"] = f"digits#test[:{CURVED}]"
    if cell in (TEACHER, MASKED, STUDENT):
        records["curvature"] = [
            # Without probes the trace has no error and there is no density: those rows are left out.
            *(
                {**shared, "probe": "hessian", "part": part, "k": 1, "probes": 0, "rows": (f"eigenvalue_1{form}",)}
                for part, form in (("whole", ""), ("balanced", "_balanced"))
            ),
            {**shared, "probe": "landscape", "what": "line", "points": 11, "span": 0.4},
        ]
    shared["data"] = f"digits#test[:{ATTRIBUTED}]"
    records["attribution"] = [
        {**shared, "part": part, "target": "feature", "steps": 6, "gradient_steps": 12, "batch": 8}
        for part in ("curves", "heads")
    ]
    if cell in (TEACHER, STUDENT, RANDOM):  # before and after distillation, and untrained
        averaged = {"probe": "attention_maps", "blocks": (0, -1), "images": AVERAGED}
        records["attribution"].append({**shared, **averaged, "data": f"digits#test[:{AVERAGED}]"})
    return records


# Steps at five minutes; CPU milliseconds a step, and those of a record, as measured: only the progress bar uses these.
SIZE = Size(
    name="digits",
    test="digits#test",
    rates=(2e-3, 6e-3),
    steps={"contrastive": 350, "masked": 450, "distill": 400, "finetune": 160},
    finetune={},
    few=(),
    costs={"contrastive": 155, "masked": 85, "distill": 120, "finetune": 65}
    | {"model": 3000, "curvature": 12000, "attribution": 2500},
    images={"model": HELD_OUT, "curvature": CURVED, "attribution": ATTRIBUTED},
    asked=asked,
    recipes="digits",
    layout={
        "model": "runs/{cell.name}",
        "tuned": "runs/finetune-{start.slug}-{rate:g}",
        "record": "records/{record}-{cell.slug}",
        "store": "",
    },
    seconds={
        "ruler": ("runs/ruler-*",),
        "pre-training": ("runs/contrastive", "runs/masked"),
        "distillation": ("runs/distilled-*",),
        "fine-tuning": ("runs/finetune-*",),
    },
)


def scaled(steps: int, minutes: float) -> int:
    """``steps`` at five minutes, in proportion; a fixed rule, so that equal commands give equal numbers.

    >>> scaled(350, 2.5), scaled(350, 0.05)
    (175, 10)
    """
    return max(10, round(steps * minutes / FULL_MINUTES))


def study_of(folder: Path, seed: int, minutes: float) -> Study:
    """The demo in ``folder``, as long as asked."""
    steps = {kind: scaled(count, minutes) for kind, count in SIZE.steps.items()}
    return Study(folder, replace(SIZE, steps=steps), (seed,), CELLS)


# --- the ruler -----------------------------------------------------------------------------------------


def ruler_name(alpha: float) -> str:
    """The name of a ruler's run and record."""
    return f"ruler-{alpha:g}"


def ruler_jobs(study: Study, minutes: float) -> dict[str, Job]:
    """Training and measuring on the locality dial, where the right attention distance is known."""
    jobs, steps, (seed,) = {}, scaled(RULER_STEPS, minutes), study.seeds
    for alpha in ALPHAS:
        name, data = ruler_name(alpha), f"locality:{alpha:g}"
        run, record = (str(study.folder / kind / name) for kind in ("runs", "records"))
        settings = {"data.source": data, "data.test": f"{data}#test[:512]", "run.steps": steps, "run.seed": seed}
        cost = RULER_COST * steps
        jobs[name] = stage.job("ruler/locality", run, settings, label=f"locality {alpha:g}", cost=cost)
        keywords = {"run": run, "alpha": alpha, "seed": seed, "record": record, "cost": SIZE.costs["model"]}
        jobs[f"measure {name}"] = Job(measure_ruler, keywords, (name,), SIZE.costs["model"])
    return jobs


def measure_ruler(run: str, alpha: float, seed: int, record: str, cost: int) -> None:
    """The measured attention distance of a model that had to look ``ideal_distance(alpha)`` px far, as a record."""
    question = {"weights": stage.digest(run), "stage": "ruler", "alpha": alpha, "seed": seed, "images": RULER_IMAGES}
    stage.once(record, question, lambda: _ruler(run, alpha, seed))
    report(cost)


def _ruler(run: str, alpha: float, seed: int) -> Record:
    """``distance_weighted``: the mean over the first block's heads of the distance, weighted by 1 - entropy / log N.

    So heads that look nowhere in particular do not count.
    """
    from fdlab.checkpoints.open import open_model
    from fdlab.data.locality import ideal_distance
    from fdlab.data.sources import open_data
    from fdlab.probes.attention import measure_attention

    label = f"locality {alpha:g}"
    images, _ = open_data(f"locality:{alpha:g}#test", seed=seed).stack(range(RULER_IMAGES), 32)
    measured = measure_attention(open_model(run), images, label=label, seed=seed)
    distance, weight = measured.arrays["distance"][:, 0], 1 - measured.arrays["entropy"][:, 0]
    weighted = (distance * weight).sum(1) / weight.sum(1)  # (images,)
    estimate = mean_interval(weighted, seed)
    common = {"model": label, "family": "supervised", "seed": seed, "probe": "ruler", "x": alpha}
    facts, counted = RunFolder(run).facts(), {"n": len(weighted), "unit": "px"}
    rows = [
        {**common, "metric": "distance_weighted", "block": 0, **estimate.row, **counted},
        {**common, "metric": "distance_ideal", "value": ideal_distance(alpha), "unit": "px"},
        {**common, "metric": "accuracy", "value": facts["accuracy"], "n": int(facts["count"])},
    ]
    table = measured.table
    heads = table[(table["block"] == 0) & table["metric"].isin(["distance", "entropy"]) & table["head"].notna()]
    heads = heads.assign(probe="ruler", x=alpha, family="supervised")
    return Record(join([frame(rows), heads]), {"distance_weighted": weighted}, measured.manifest)
