"""One training from its recipe to a finished run folder: pretrain, distill, finetune."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fdlab.encoders.devices import pick_device
from fdlab.engine import recipe as recipes
from fdlab.engine.distributed import current, launched
from fdlab.engine.hardware import check_device, determinism, peak
from fdlab.engine.memory import largest_part, out_of_memory
from fdlab.engine.settings import Recipe
from fdlab.engine.state import saved_step
from fdlab.engine.trainer import train
from fdlab.errors import USAGE, FdlabError
from fdlab.progress import Progress
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import identities, planned_steps, prepared
from fdlab.study.results import finish, snapshots
from fdlab.study.watch import Watch, attention_probe, check_best, steps_of
from fdlab.tasks.base import Task, find_task
from fdlab.version import __version__


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
    fork: str = "",
) -> Path:
    """Starts the training, continues it, or says that it is finished. Returns the run's folder.

    Args:
        planned: what ``plan`` returned.
        out: the run's folder.
        quiet: no progress.
        on_step: called with the number of each finished step.
        label: the model's name in the run's record; by default the folder's.
        family: its display family; by default the task's.
        fork: a new folder; the run in ``out`` stays as it is, and the new one goes on from its last state with
            the settings of ``planned`` (its log begins with the old one's).
    """
    recipe, folder = planned.recipe, RunFolder(out)
    started = time.monotonic()
    with launched(str(pick_device(recipe.run.device))) as device, contextlib.ExitStack() as held:
        ranks = current()
        check_device(recipe, device, ranks.ranks)
        if fork:
            folder = _forked(recipe, folder, fork)
        ranks.first(lambda: _prepare(recipe, folder))
        if not ranks.any(folder.finished):
            held.enter_context(determinism(recipe.run.deterministic))
            ranks.first(lambda: held.enter_context(folder.locked()))
            _train(planned, folder, device, started, quiet or not ranks.leader, on_step, label, family)
    return folder.path


def _prepare(recipe: Recipe, folder: RunFolder) -> None:
    old = folder.recipe.read_text(encoding="utf-8") if folder.recipe.is_file() else None
    folder.prepare(recipe.as_toml(), recipes.differences(old, recipe) if old else None)


def _forked(recipe: Recipe, origin: RunFolder, name: str) -> RunFolder:
    def fork() -> None:
        old = origin.recipe.read_text(encoding="utf-8") if origin.recipe.is_file() else ""
        if not origin.beside(name).recipe.is_file():  # else the same command was given before
            _check_fork(recipe, origin)
        origin.fork(name, recipe.as_toml(), recipes.differences(old, recipe) if old else [])

    current().first(fork)
    return origin.beside(name)


def _check_fork(recipe: Recipe, origin: RunFolder) -> None:
    """Refuses a fork that could not train: no state of its kind, or no steps left. Nothing is written before this."""
    at = saved_step(origin, recipe.run.strategy)
    if not at:
        raise FdlabError(
            f"{origin.path} has no state to fork with run.strategy={recipe.run.strategy}.",
            "It was never started, nothing was saved yet, or it has the other strategy's state.",
            "Start it first, keep its strategy, or leave --fork out to begin a new run.",
            code=USAGE,
        )
    if (steps := planned_steps(recipe)) <= at:
        raise FdlabError(
            f"The fork has no steps left: {origin.path} is at step {at}, and these settings end at step {steps}.",
            "run.steps and run.epochs count from the beginning of the run that is forked.",
            f"Set run.steps above {at}, e.g. --set run.steps={2 * at}.",
            code=USAGE,
        )


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
    task, batches, steps = prepared(recipe, planned.task, device)
    ranks.first(lambda: folder.same_inputs(identities(task)))
    keep = snapshots(task, recipe, folder) if ranks.leader else []
    check_best(task, recipe)
    watch_every, probe_every = (steps_of(n, task, recipe) for n in (recipe.watch.every, recipe.watch.probe_every))
    watch = Watch(task, recipe) if watch_every else None
    if probe_every and ranks.leader:
        keep.append(attention_probe(task, recipe, folder, probe_every))
    result = None
    with (
        contextlib.suppress(torch.OutOfMemoryError),
        Progress(label or folder.path.name, steps, quiet=quiet) as progress,
    ):
        result = train(
            task,
            batches,
            recipe,
            folder,
            steps=steps,
            progress=progress,
            on_step=(*on_step, *keep),
            watch=watch,
            watch_every=watch_every,
        )
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
        **({"peak_tflops": round(peak(device, task.low) / 1e12, 4)} if task.flops else {}),
        **({"forked": folder.forked} if folder.forked else {}),
        "seconds": round(time.monotonic() - started, 2),
        "notes": [*task.notes, *task.data.notes],
        "skipped_images": sum(s.skipped for s in (task.data, task.test, task.validation) if s is not None),
        "data_digest": task.data.digest,
        "labels": len(task.data) if recipe.task == "classify" and not task.data.endless else 0,
        "versions": {"fdlab": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    ranks.first(lambda: finish(task, recipe, folder, facts))


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
