"""``fdlab demo``: the whole study at digit size, from training to the page, in about five minutes.

Stages: the ruler (data whose attention distance is known); a contrastive teacher and a masked-image
model; the teacher distilled into the paper's student and, as the control, into its own architecture; all
of them and a random start of each design fine-tuned with few labels and measured on held-out images.
Every stage is a run folder or a record, so the same command continues an interrupted demo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdlab.errors import USAGE, FdlabError
from fdlab.experiments import digits_stages as stages
from fdlab.experiments.digits_report import write_report
from fdlab.records.atomic import writable_folder
from fdlab.records.run_folder import slug
from fdlab.records.store import Record
from fdlab.study.parallel import Job, run_jobs

FULL_MINUTES = 5.0
ALPHAS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Start:
    """A model of the demo: its name, its family and where it comes from (relative to the demo's folder)."""

    label: str
    family: str
    run: str
    random: bool = False
    design: str = "plain"
    pair_of: str = ""
    control: str = ""
    curvature: bool = False  # whether its loss surface is looked at
    maps: bool = False  # whether its averaged maps are drawn: before and after distillation, and untrained


STARTS = (
    Start(
        "contrastive teacher", "contrastive", "contrastive", control="random, plain design", curvature=True, maps=True
    ),
    Start("masked modelling", "mim", "masked", control="random, plain design", curvature=True),
    Start(
        "distilled, same design",
        "distilled",
        "distilled-same",
        pair_of="contrastive teacher",
        control="random, plain design",
    ),
    Start(
        "distilled, paper's student",
        "distilled",
        "distilled-student",
        design="student",
        pair_of="contrastive teacher",
        control="random, student design",
        curvature=True,
        maps=True,
    ),
    Start("random, plain design", "random", "contrastive", random=True, maps=True),
    Start("random, student design", "random", "distilled-student", random=True, design="student"),
)

# (recipe, steps at --minutes 5, CPU milliseconds a step as measured: only the progress bar uses these)
TRAININGS = {
    "contrastive": ("digits/contrastive", 350, 155),
    "masked": ("digits/masked", 450, 85),
    "distilled-student": ("digits/distill", 400, 130),
    "distilled-same": ("digits/distill-same", 400, 105),
}
RULER_STEPS, RULER_COST = 220, 70
FINETUNE_STEPS, FINETUNE_COST = 160, 65


def scaled(steps: int, minutes: float) -> int:
    """``steps`` at five minutes, in proportion; a fixed rule, so that equal commands give equal numbers."""
    return max(10, round(steps * minutes / FULL_MINUTES))


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
        FdlabError: code 2 where ``out`` holds a demo with another seed or length.
    """
    if not 0.05 <= minutes <= 600:
        raise FdlabError(f"--minutes {minutes:g} is out of range.", "", "Give a number from 0.05 to 600.", code=USAGE)
    folder = writable_folder(out)
    stages.same_question(folder, {"seed": seed, "minutes": minutes})
    jobs = {**ruler_jobs(folder, seed, minutes), **model_jobs(folder, seed, minutes)}
    run_jobs(jobs, workers=workers, label="demo", quiet=quiet)
    records = {path.name: Record.load(path) for path in sorted((folder / "records").iterdir())}
    return write_report(folder, records, starts=STARTS, alphas=ALPHAS, seed=seed, minutes=minutes, command=command)


def ruler_jobs(folder: Path, seed: int, minutes: float) -> dict[str, Job]:
    """Training and measuring on the locality dial."""
    jobs = {}
    for alpha in ALPHAS:
        name = f"ruler-{alpha:g}"
        steps = scaled(RULER_STEPS, minutes)
        options = {
            "data.source": f"locality:{alpha:g}",
            "data.test": f"locality:{alpha:g}#test[:512]",
            "run.steps": steps,
            "run.seed": seed,
        }
        jobs[name] = _training(folder, name, "ruler/locality", options, RULER_COST * steps, f"locality {alpha:g}")
        keywords = {
            "run": str(folder / "runs" / name),
            "alpha": alpha,
            "seed": seed,
            "record": str(folder / "records" / name),
        }
        jobs[f"measure {name}"] = Job(stages.measure_ruler, keywords, (name,), stages.PROBE_COST)
    return jobs


def model_jobs(folder: Path, seed: int, minutes: float) -> dict[str, Job]:
    """Pre-training, distillation, measuring and fine-tuning of the digit models."""
    runs = folder / "runs"
    jobs: dict[str, Job] = {}
    for name, (recipe, full, cost) in TRAININGS.items():
        distils = name.startswith("distilled")
        steps = scaled(full, minutes)
        options: dict[str, Any] = {"run.steps": steps, "run.seed": seed}
        if distils:
            options["distill.teacher"] = str(runs / "contrastive")
        needs: tuple[str, ...] = ("contrastive",) if distils else ()
        jobs[name] = _training(folder, name, recipe, options, cost * steps, name, needs)
    for start in STARTS:
        source = f"random:{runs / start.run}" if start.random else str(runs / start.run)
        needs = tuple(dict.fromkeys((start.run, "contrastive")))
        jobs[f"measure {start.label}"] = Job(
            stages.measure_model,
            {
                "source": source,
                "teacher": str(runs / "contrastive"),
                "label": start.label,
                "family": start.family,
                "seed": seed,
                "record": str(folder / "records" / f"model-{slug(start.label)}"),
            },
            needs,
            stages.PROBE_COST,
        )
        common = {"source": source, "label": start.label, "family": start.family, "seed": seed}
        if start.curvature:
            keywords = {**common, "record": str(folder / "records" / f"curvature-{slug(start.label)}")}
            jobs[f"curvature {start.label}"] = Job(
                stages.measure_curvature, keywords, (start.run,), stages.CURVATURE_COST
            )
        keywords = {
            **common,
            "maps": start.maps,
            "record": str(folder / "records" / f"attribution-{slug(start.label)}"),
        }
        jobs[f"attribution {start.label}"] = Job(
            stages.measure_attributed, keywords, (start.run,), stages.ATTRIBUTION_COST
        )
        for rate in stages.RATES:
            name = f"finetune-{slug(start.label)}-{rate:g}"
            options = {
                "classify.model": source,
                "run.steps": scaled(FINETUNE_STEPS, minutes),
                "run.seed": seed,
                "data.label_seed": seed,
                "optim.lr": rate,
                "classify.bias_scale": 10 if "student" in start.label else 1,
            }
            cost = FINETUNE_COST * options["run.steps"]
            jobs[name] = _training(
                folder, name, "digits/finetune", options, cost, start.label, (start.run,), start.family
            )
    return jobs


def _training(
    folder: Path,
    name: str,
    recipe: str,
    options: dict[str, Any],
    cost: int,
    label: str,
    needs: tuple[str, ...] = (),
    family: str = "",
) -> Job:
    call: Callable[..., float] = stages.train
    keywords = {
        "recipe": recipe,
        "options": options,
        "run": str(folder / "runs" / name),
        "label": label,
        "family": family,
        "cost": cost,
    }
    return Job(call, keywords, needs, cost)
