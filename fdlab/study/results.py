"""What a training leaves: the encoder, its heads, snapshots on the way, and a record of its own numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fdlab.checkpoints.own_weights import save_own_weights
from fdlab.checkpoints.save import save_encoder, save_heads
from fdlab.engine.settings import Recipe
from fdlab.errors import FdlabError
from fdlab.records.atomic import write_text
from fdlab.records.intervals import proportion_interval
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.records.table import frame
from fdlab.study.exports.card import run_card
from fdlab.study.exports.subject import ending
from fdlab.tasks.base import Task


def finish(task: Task, recipe: Recipe, folder: RunFolder, facts: dict[str, Any]) -> None:
    """Writes the files of a finished run. ``run.json`` comes last, since it marks the run as finished."""
    save(task, folder.path / task.result, facts["family"], recipe.run.seed)
    heads = {name: part for name, part in task.module.items() if name != "encoder"}
    save_heads(folder.path / "heads.safetensors", heads)
    # How evaluation images reach the model's size belongs to what a later user of it must do.
    facts = {**facts, "direct": task.data.direct}
    if task.validation is not None:
        facts["validation_count"] = len(task.validation) - task.validation.skipped
    if recipe.task == "classify":
        _card(folder, facts, f"{task.code}@{folder.path}" if task.code else "")
    _record(task, recipe, facts).save(folder.path / "record")
    folder.finish(facts)


def _card(folder: RunFolder, facts: dict[str, Any], source: str) -> None:
    """The classifier's card; a training is not lost over it."""
    try:
        write_text(folder.path / "README.md", run_card(ending(folder, facts, source)))
    except FdlabError as error:
        warnings.warn(f"The card of {folder.path} was not written: {error.what} {error.why}", stacklevel=2)


def snapshots(task: Task, recipe: Recipe, folder: RunFolder) -> list[Callable[[int], None]]:
    """Callbacks of the trainer: one that keeps the encoder every ``save.snapshots`` steps, or none."""
    every = recipe.save.snapshots

    def keep(step: int) -> None:
        if step % every == 0:
            save(task, folder.snapshot(step), task.family, recipe.run.seed)

    return [keep] if every else []


def save(task: Task, path: Path, family: str, seed: int) -> None:
    """Writes the task's encoder with the weights of this moment, as a file that ``open_model`` reads.

    Of a network of the user's own code, it opens beside that code: ``py:FILE.py:FUNCTION@RUN``.
    """
    if task.code:
        own: dict[str, Any] = {"code": task.code, "image_size": task.size, "mean": task.mean, "std": task.std}
        save_own_weights(path, task.kept_encoder, **own, family=family, seed=seed)
        return
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


def _record(task: Task, recipe: Recipe, facts: Mapping[str, Any]) -> Record:
    """The run's own numbers as rows of the one table; the array ``accuracy`` has the answer to each test image."""
    common = {"model": facts["label"], "family": facts["family"], "seed": recipe.run.seed, "probe": "training"}
    rows: list[dict[str, Any]] = [
        {**common, "metric": "final_loss", "value": facts["final_loss"], "objective": "train"},
        {**common, "metric": "learning_rate", "value": recipe.optim.lr},
    ]
    if "validation_accuracy" in facts:
        rows.append({**common, "metric": "validation_accuracy", "value": facts["validation_accuracy"]})
    if "count" in facts:
        count = int(facts["count"])
        share = proportion_interval(int(facts["correct"]), count).row
        rows.append({**common, "metric": "accuracy", **share, "n": count, "objective": "test"})
    manifest = {"recipe": recipe.model_dump(mode="json"), **facts}
    right = getattr(task, "right", None)
    if right is None or task.test is None or (right.sum(), len(right)) != (facts.get("correct"), facts.get("count")):
        return Record(frame(rows), manifest=manifest)
    return Record(frame(rows), {"accuracy": right}, {**manifest, "test_digest": task.test.digest})
