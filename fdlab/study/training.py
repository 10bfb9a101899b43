"""One training from its recipe to a finished run folder: pretrain, distill, finetune."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdlab import __version__
from fdlab.data.images import ImageSource
from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.data.splits import split_labelled
from fdlab.encoders.devices import pick_device
from fdlab.encoders.heads import save_heads
from fdlab.encoders.save import save_encoder
from fdlab.engine import recipe as recipes
from fdlab.engine.distributed import current, launched
from fdlab.engine.memory import largest_part, out_of_memory
from fdlab.engine.settings import Recipe
from fdlab.engine.trainer import train
from fdlab.errors import USAGE, FdlabError
from fdlab.progress import Progress
from fdlab.records.intervals import proportion_interval
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame
from fdlab.tasks.base import Task, find_task


@dataclass(frozen=True)
class Plan:
    """A resolved training that has not been started."""

    recipe: Recipe
    task: type[Task]
    layers: Mapping[str, Mapping[str, Any]]

    def describe(self) -> list[tuple[str, Any, str]]:
        """(setting, value, where it came from), for ``--dry-run``."""
        return recipes.sources(self.recipe, self.layers)


def plan(
    recipe: str,
    *,
    task: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    config: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolves a recipe: defaults < recipe < ``config`` < ``overrides`` and ``options`` (dotted keys).

    Args:
        recipe: a packaged name or a TOML file.
        task: what the verb expects; None: what the recipe says.
        overrides: ``--set``. options: the verb's own options; empty ones are left out.
    """
    given = {key: value for key, value in (options or {}).items() if value not in (None, "")}
    if "data.source" in given and "data.test" not in {*given, *(overrides or {})}:
        given["data.test"] = ""  # the recipe's test images belong to the recipe's own data
    layers = {
        f"recipe {recipe}": recipes.read(recipe),
        **({"--config": recipes.read(config)} if config else {}),
        "--set": recipes.nested(overrides or {}),
        "command line": recipes.nested(given),
    }
    name = str(task or recipes.read(recipe).get("task", ""))
    kind = find_task(name)
    return Plan(recipes.resolve(layers, kind.Settings, name), kind, layers)


def run(
    planned: Plan,
    out: str | Path,
    *,
    quiet: bool = False,
    on_step: Iterable[Callable[[int], None]] = (),
    label: str = "",
    family: str = "",
) -> Path:
    """Starts the training, continues it, or says that it is finished. Returns the run's folder.

    Args:
        planned: what ``plan`` returned.
        out: the run's folder.
        quiet: no progress.
        on_step: called with the number of each finished step.
        label: the model's name in the run's record; by default the folder's.
        family: its display family; by default the task's.
    """
    recipe, folder = planned.recipe, RunFolder(out)
    started = time.monotonic()
    with launched(str(pick_device(recipe.run.device))) as device, contextlib.ExitStack() as held:
        ranks = current()
        ranks.first(lambda: _prepare(recipe, folder))
        if not ranks.any(folder.finished):
            ranks.first(lambda: held.enter_context(folder.locked()))
            _train(planned, folder, device, started, quiet or not ranks.leader, on_step, label, family)
    return folder.path


def _prepare(recipe: Recipe, folder: RunFolder) -> None:
    old = folder.recipe.read_text(encoding="utf-8") if folder.recipe.is_file() else None
    folder.prepare(recipe.as_toml(), recipes.differences(old, recipe) if old else None)


def _train(
    planned: Plan,
    folder: RunFolder,
    device: str,
    started: float,
    quiet: bool,
    on_step: Iterable[Callable[[int], None]],
    label: str,
    family: str,
) -> None:
    recipe, ranks = planned.recipe, current()
    task, batches, steps = _ready(planned, device)
    ranks.first(lambda: folder.same_inputs(_inputs(task)))
    keep = _snapshots(task, recipe, folder) if ranks.leader else []
    result = None
    with (
        contextlib.suppress(torch.OutOfMemoryError),
        Progress(label or folder.path.name, steps, quiet=quiet) as progress,
    ):
        result = train(task, batches, recipe, folder, steps=steps, progress=progress, on_step=(*on_step, *keep))
    if result is None:  # out of the handler, so that what the failed step held is free again
        batch, parts = recipe.run.batch, recipe.run.accumulate * ranks.ranks
        fits = largest_part(task, batches, batch, parts) if ranks.alone else 0
        raise out_of_memory(batch, parts, fits, task.couples_images)
    facts = {
        "label": label or folder.path.name,
        "family": family or task.family,
        "seed": recipe.run.seed,
        "steps": steps,
        **result,
        "seconds": round(time.monotonic() - started, 2),
        "notes": [*task.notes, *task.data.notes],
        "skipped_images": sum(s.skipped for s in (task.data, task.test, task.validation) if s is not None),
        "data_digest": task.data.digest,
        "labels": len(task.data) if recipe.task == "classify" and not task.data.endless else 0,
        "versions": {"fdlab": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    ranks.first(lambda: _finish(task, recipe, folder, facts))


def _finish(task: Task, recipe: Recipe, folder: RunFolder, facts: dict[str, Any]) -> None:
    _export(task, recipe, folder, facts["family"])
    _record(recipe, facts).save(folder.path / "record")
    folder.finish(facts)


def _inputs(task: Task) -> dict[str, str]:
    """What a run must find unchanged when it goes on: its images and the models it starts from."""
    sources = {"data": task.data, "test": task.test, "validation": task.validation}
    return task.inputs | {name: source.digest for name, source in sources.items() if source is not None}


def _ready(planned: Plan, device: str) -> tuple[Task, Callable[[int], Batches], int]:
    recipe = planned.recipe
    images = _images(recipe)
    data = images["data"]
    assert data is not None
    size = recipe.data.size or (data.native_size[0] if data.native_size else 224)
    task = planned.task(recipe.own, size=size, seed=recipe.run.seed, device=device, **images)
    batch = recipe.run.batch
    _check_parts(task, recipe)
    steps = recipe.run.steps
    if not steps:
        if data.endless or not recipe.run.epochs:
            raise FdlabError(
                "The training has no length.",
                "run.steps and run.epochs are 0, or the data is endless.",
                "Give --set run.steps=...",
                code=USAGE,
            )
        steps = recipe.run.epochs * (len(data) // batch)
    task.steps = steps
    ranks = current()

    def batches(start: int) -> Batches:
        return Batches(
            data,
            size=size,
            batch=batch,
            seed=recipe.run.seed,
            view=recipe.view,
            views=planned.task.views,
            start=start,
            stop=steps,
            workers=recipe.run.workers,
            part=(ranks.rank, ranks.ranks),
        )

    return task, batches, steps


def _check_parts(task: Task, recipe: Recipe) -> None:
    ranks, batch = current().ranks, recipe.run.batch
    parts = recipe.run.accumulate * ranks
    if parts > 1 and task.couples_images:
        raise FdlabError(
            f"A batch of {recipe.task} cannot be computed in {parts} parts.",
            "Its loss or its batch norm compares the images of a batch with each other.",
            "Set run.accumulate=1 and use one process." if ranks > 1 else "Set run.accumulate=1.",
            code=USAGE,
        )
    if batch % parts:
        raise FdlabError(
            f"A batch of {batch} has no {parts} equal parts.",
            f"{ranks} ranks x {recipe.run.accumulate} parts." if ranks > 1 else "",
            f"Change run.batch, e.g. to {max(batch // parts, 1) * parts}, or run.accumulate.",
            code=USAGE,
        )


def _images(recipe: Recipe) -> dict[str, ImageSource | None]:
    """Training, test and validation images; disjoint where they come from one source."""
    data = open_data(recipe.data.source, seed=recipe.run.seed)
    test = open_data(recipe.data.test, seed=recipe.run.seed) if recipe.data.test else None
    validation = None
    if recipe.data.per_class or recipe.data.validation:
        labelled, held = labelled_split(data, recipe)
        validation = data.subset(held) if len(held) else None
        data = data.subset(labelled)
    if test is not None:
        check_held_out(data, test)
        if validation is not None:
            check_held_out(validation, test)
    return {"data": data, "test": test, "validation": validation}


def check_held_out(data: ImageSource, test: ImageSource) -> None:
    """Refuses test images that are trained on, and classes that do not match.

    Raises:
        FdlabError: code 2.
    """
    if common := data.shared_with(test):
        raise FdlabError(
            f"{common} of the test images {test.spec} are among the images of {data.spec}.",
            "An accuracy on them would say nothing.",
            f"Give parts that do not overlap, e.g. {data.spec.split('#')[0]}#train and #test.",
            code=USAGE,
        )
    if data.classes and test.classes and data.classes != test.classes:
        raise FdlabError(
            f"{data.spec} and {test.spec} have different classes.",
            f"{len(data.classes)} ({', '.join(data.classes[:3])}, ...) and {len(test.classes)} "
            f"({', '.join(test.classes[:3])}, ...).",
            "Give test images of the same classes.",
            code=USAGE,
        )


def labelled_split(data: ImageSource, recipe: Recipe) -> tuple[Any, Any]:
    """(labelled, validation) positions in the training images: disjoint, from ``data.label_seed`` alone."""
    settings = recipe.data
    labels = data.labels()
    labelled, held = split_labelled(
        labels, per_class=settings.per_class, validation=settings.validation, seed=settings.label_seed
    )
    return (labelled if settings.per_class else np.setdiff1d(np.arange(len(labels)), held)), held


def _snapshots(task: Task, recipe: Recipe, folder: RunFolder) -> list[Callable[[int], None]]:
    every = recipe.save.snapshots

    def keep(step: int) -> None:
        if step % every == 0:
            _save(task, folder.snapshot(step), task.family, recipe.run.seed)

    return [keep] if every else []


def _save(task: Task, path: Path, family: str, seed: int) -> None:
    save_encoder(
        path,
        task.kept_encoder,
        design=task.design,
        call=task.call,
        mean=task.mean,
        std=task.std,
        family=family,
        seed=seed,
        options=task.options,
    )


def _export(task: Task, recipe: Recipe, folder: RunFolder, family: str) -> None:
    _save(task, folder.path / task.result, family, recipe.run.seed)
    heads = {name: part for name, part in task.module.items() if name != "encoder"}
    save_heads(folder.path / "heads.safetensors", heads)


def _record(recipe: Recipe, facts: Mapping[str, Any]) -> Record:
    """The run's own numbers as rows of the one table."""
    common = {
        "model": facts["label"],
        "family": facts["family"],
        "seed": recipe.run.seed,
        "probe": "training",
    }
    rows: list[dict[str, Any]] = [
        {**common, "metric": "final_loss", "value": facts["final_loss"], "objective": "train"},
        {**common, "metric": "learning_rate", "value": recipe.optim.lr},
    ]
    if "validation_accuracy" in facts:
        value = facts["validation_accuracy"]
        rows.append({**common, "metric": "validation_accuracy", "value": value})
    if "count" in facts:
        count = int(facts["count"])
        value, low, high = proportion_interval(int(facts["correct"]), count)
        rows.append(
            {
                **common,
                "metric": "accuracy",
                "value": value,
                "low": low,
                "high": high,
                "n": count,
                "objective": "test",
            }
        )
    return Record(frame(rows), manifest={"recipe": recipe.model_dump(mode="json"), **facts})


def _verb(task: str | None, default: str) -> Callable[..., Path]:
    def start(
        recipe: str = default,
        *,
        data: str | None = None,
        out: str | Path,
        overrides: Mapping[str, Any] | None = None,
        quiet: bool = True,
        **options: Any,
    ) -> Path:
        planned = plan(recipe, task=task, overrides=overrides, options={"data.source": data, **_named(task, options)})
        return run(planned, out, quiet=quiet)

    return start


def _named(task: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{task}.{key}" if task else key: value for key, value in options.items()}


pretrain = _verb(None, "digits/contrastive")
pretrain.__doc__ = """Trains a small teacher from scratch; returns the run's folder.

Args: recipe (contrastive or masked), data, out, overrides={"optim.lr": 3e-4}.
"""
distill = _verb("distill", "digits/distill")
distill.__doc__ = """Distils a teacher into a fresh student; returns the run's folder.

Args: recipe, teacher=SOURCE, data, out, overrides.
"""
finetune = _verb("classify", "digits/finetune")
finetune.__doc__ = """Fine-tunes a model on labelled images; returns the run's folder.

Args: recipe, model=SOURCE, data, out, overrides.
"""
