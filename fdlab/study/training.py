"""One training, from its recipe to a finished run folder: ``pretrain``, ``distill``, ``finetune``."""

from __future__ import annotations

import contextlib
import platform
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from fdlab.checkpoints.open import open_module
from fdlab.checkpoints.own_code import live_source
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import Encoder
from fdlab.engine import recipe as recipes
from fdlab.engine.distributed import current, launched
from fdlab.engine.hardware import check_device, determinism, peak
from fdlab.engine.memory import largest_part, out_of_memory
from fdlab.engine.settings import Recipe
from fdlab.engine.state import saved_step, surroundings
from fdlab.engine.trainer import train
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.progress import Progress, say
from fdlab.records.run_folder import RunFolder
from fdlab.study.defaults import recipe_for
from fdlab.study.headline import headline
from fdlab.study.inputs import identities, planned_steps, prepared
from fdlab.study.plan import Plan, plan, task_of
from fdlab.study.results import finish, snapshots
from fdlab.study.watch import Watch, attention_probe, check_best, steps_of
from fdlab.version import __version__

Hooks = Iterable[Callable[[int], None]]  # each is called with the number of every finished step


def run(
    planned: Plan,
    out: str | Path,
    *,
    quiet: bool = False,
    on_step: Hooks = (),
    label: str = "",
    family: str = "",
    fork: str = "",
) -> Path:
    """Starts a training or continues it, and returns the run's folder; a finished run is left as it is.

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
        ranks.first(lambda: folder.prepare(recipe.as_toml(), _differences(recipe, folder)))
        if not ranks.any(folder.finished):
            held.enter_context(determinism(recipe.run.deterministic))
            ranks.first(lambda: held.enter_context(folder.locked()))
            _train(planned, folder, device, started, quiet or not ranks.leader, on_step, label, family)
    return folder.path


def _differences(recipe: Recipe, folder: RunFolder) -> list[str]:
    """How the settings differ from those of the run in the folder; empty where there is none."""
    if not folder.recipe.is_file():
        return []
    try:
        old = folder.recipe.read_text(encoding="utf-8")
        if not tomllib.loads(old):
            raise ValueError("It is empty.")
        return recipes.differences(old, recipe)
    except (OSError, ValueError, RecursionError) as error:
        raise FdlabError(
            f"{folder.recipe} of this run is damaged.",
            str(error).splitlines()[0][:200],
            "Restore it (fdlab recipes, or a copy), or begin a new run with -o/--out.",
            code=NOT_UNDERSTOOD,
        ) from None


def _forked(recipe: Recipe, origin: RunFolder, name: str) -> RunFolder:
    def fork() -> None:
        if not origin.beside(name).recipe.is_file():  # else the same command was given before
            _check_fork(recipe, origin)
        origin.fork(name, recipe.as_toml(), _differences(recipe, origin))

    current().first(fork)
    return origin.beside(name)


def _check_fork(recipe: Recipe, origin: RunFolder) -> None:
    """Refuses a fork that could not train, before anything is written: no state to start from, or no steps left."""
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
    planned: Plan, folder: RunFolder, device: str, started: float, quiet: bool, on_step: Hooks, label: str, family: str
) -> None:
    recipe, ranks, label = planned.recipe, current(), label or folder.path.name
    task, batches, steps = prepared(recipe, planned.task, device)
    ranks.first(lambda: folder.same_inputs(identities(task)))
    for line in headline(task, recipe, steps, folder):
        say(f"{label}: {line}", quiet=quiet)
    hooks = [*on_step, *(snapshots(task, recipe, folder) if ranks.leader else ())]
    check_best(task, recipe)
    every, probe_every = (steps_of(epochs, task, recipe) for epochs in (recipe.watch.every, recipe.watch.probe_every))
    watch = Watch(task, recipe) if every else None
    if probe_every and ranks.leader:
        hooks.append(attention_probe(task, recipe, folder, probe_every))
    result = None
    with contextlib.suppress(torch.OutOfMemoryError), Progress(label, steps, quiet=quiet) as progress:
        result = train(
            task, batches, recipe, folder, steps=steps, progress=progress, on_step=hooks, watch=watch, watch_every=every
        )
    if result is None:  # out of the handler, so that what the failed step held is free again
        batch, parts = recipe.run.batch, recipe.run.accumulate * ranks.ranks
        fits = largest_part(task, batches, batch, parts) if ranks.alone else 0
        raise out_of_memory(batch, parts, fits, task.couples_images)
    facts = {
        "label": label,
        "family": family or task.family,
        "seed": recipe.run.seed,
        "steps": steps,
        **result,
        **({"peak_tflops": round(peak(device, task.low) / 1e12, 4)} if task.flops else {}),
        **({"forked": folder.forked} if folder.forked else {}),
        "seconds": round(time.monotonic() - started, 2),
        "notes": [
            *task.notes,
            *dict.fromkeys(note for s in (task.data, task.test, task.validation) if s is not None for note in s.notes),
        ],
        "skipped_images": sum(s.skipped for s in (task.data, task.test, task.validation) if s is not None),
        "data_digest": task.data.digest,
        "surroundings": surroundings(device),
        **({"classes": list(task.data.classes)} if recipe.task == "classify" and task.data.classes else {}),
        "labels": len(task.data) if recipe.task == "classify" and not task.data.endless else 0,
        "versions": {"fdlab": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    ranks.first(lambda: finish(task, recipe, folder, facts))


# --- the three verbs of the Python face --------------------------------------------------------------------


def pretrain(
    recipe: str | None = None,
    *,
    data: str | Path | None = None,
    test: str | Path | None = None,
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Trains a small model from scratch: contrastive, masked, supervised, or any other task of a recipe.

    The same call continues a run that was stopped, and does nothing where the run is finished. What is None stays as
    the recipe has it.

    Args:
        recipe: a packaged name, as ``fdlab recipes`` lists them, or a TOML file; None: "digits/contrastive" for digits,
            else "folder/contrastive", whose sizes and length follow from your images ("folder/masked" is the other).
        data: training images, in the grammar of ``--data``: "digits", a folder, "file.parquet#train", ...
        test: held-out images; where ``data`` is given and this is not, there are none.
        out: the run's folder.
        overrides: any settings by dotted key, e.g. ``{"optim.lr": 3e-4, "run.steps": 500}``.
        config: a TOML file laid over the recipe.
        seed: of everything that is drawn.
        device: "cpu", "cuda", "mps" or "auto".
        quiet: print no progress.
        settings: settings of the recipe's task, e.g. ``temperature=0.2`` of a contrastive one.

    Returns:
        The run's folder: its weights are ``encoder.safetensors`` (``open_model`` takes the folder), its numbers
        ``run.json``, its log ``metrics.jsonl``.

    Raises:
        FdlabError: code 2, settings that are unknown, do not fit each other or differ from those of the run in
            ``out``; code 3, images that cannot be read; code 4, too little memory; code 1, the loss is not a number.

    Example:
        ``run = fdlab.pretrain("digits/masked", out="runs/mim", overrides={"run.steps": 500})``
    """
    task = task_of(recipe or recipe_for("contrastive", str(data or "")))
    options = _options(task, settings, data, test, seed, device)
    return run(plan(recipe, overrides=overrides, config=config, options=options), out, quiet=quiet)


def distill(
    recipe: str | None = None,
    *,
    teacher: str | Path | torch.nn.Module | Encoder | None = None,
    data: str | Path | None = None,
    test: str | Path | None = None,
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Distils a frozen teacher's features into a fresh student, by the paper's method.

    Args:
        recipe: of the task distill, e.g. "paper/clip-b-300ep"; None: "digits/distill" for digits, else
            "folder/distill", whose sizes and length follow from your images and the teacher.
        teacher: SOURCE: a file, a run's folder, "timm:NAME", "FILE@teacher", "py:FILE.py:FUNCTION"; or a module of
            your own (a copy of it is frozen); None: the recipe's.
        data, test, out, overrides, config, seed, device, quiet: as in ``pretrain``.
        settings: settings of distillation, e.g. ``beta=1.0`` or ``loss="mse"``.

    Returns:
        The run's folder: the student is ``student.safetensors``, its projector is in ``heads.safetensors``.

    Raises:
        FdlabError: code 2, no teacher, or what ``pretrain`` raises; code 3, a teacher that cannot be read.

    Example:
        ``run = fdlab.distill(teacher="runs/contrastive", data="digits", out="runs/student")``
    """
    options = _options("distill", {"teacher": teacher, **settings}, data, test, seed, device)
    return run(plan(recipe, task="distill", overrides=overrides, config=config, options=options), out, quiet=quiet)


def finetune(
    recipe: str | None = None,
    *,
    model: str | Path | torch.nn.Module | Encoder | None = None,
    data: str | Path | None = None,
    test: str | Path | None = None,
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Path:
    """Fine-tunes a model on labelled images.

    Args:
        recipe: of the task classify; None: "digits/finetune" for digits, else "folder/finetune", whose sizes, length
            and split follow from your images and the model.
        model: SOURCE of the start: a file, a run's folder, "timm:NAME"; "random:RUN" is the untrained control.
        data, test, out, overrides, config, seed, device, quiet: as in ``pretrain``.
        settings: settings of fine-tuning, e.g. ``smoothing=0.0`` or ``freeze=True``.

    Returns:
        The run's folder; ``run.json`` has ``accuracy`` where there are test images.

    Raises:
        FdlabError: code 2, images without labels, or what ``pretrain`` raises; code 3, a model that cannot be read.

    Example:
        ``run = fdlab.finetune(model="runs/student", data="digits#train", test="digits#test", out="runs/tuned")``
    """
    options = _options("classify", {"model": model, **settings}, data, test, seed, device)
    return run(plan(recipe, task="classify", overrides=overrides, config=config, options=options), out, quiet=quiet)


def _as_source(value: Any) -> Any:
    """A module or an ``Encoder`` as a SOURCE that a recipe can hold."""
    if isinstance(value, torch.nn.Module):
        value = open_module(value)
    return live_source(value) if isinstance(value, Encoder) else value


def _options(
    task: str, own: Mapping[str, Any], data: object, test: object, seed: int | None, device: str | None
) -> dict[str, Any]:
    """The task's own settings and those that every training has, by dotted key; None leaves the recipe's."""
    named = {key if "." in key else f"{task}.{key}": _as_source(value) for key, value in own.items()}
    return {"data.source": data, "data.test": test, "run.seed": seed, "run.device": device} | named
