"""Measurements of a model while it is trained: callbacks of the engine, which itself knows no measure and no probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fdlab.data.evaluation import stacked
from fdlab.data.images import ImageSource
from fdlab.engine.settings import Recipe
from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.classifier import knn_predict
from fdlab.measures.features import effective_rank
from fdlab.probes.measure import measure
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Store
from fdlab.study.results import save
from fdlab.tasks.base import Task

BATCH = 128


def steps_of(epochs: int, task: Task, recipe: Recipe) -> int:
    """How many steps so many epochs are; 0 for 0.

    Raises:
        FdlabError: code 2, the images have no epochs.
    """
    if epochs and task.data.endless:
        raise FdlabError(
            f"{task.data.spec} is endless: it has no epochs to watch by.",
            "watch.every and watch.probe_every count epochs.",
            f"Take a part of it, e.g. {task.data.spec}[:4096], or set run.evaluate_every and save.snapshots (steps).",
            code=USAGE,
        )
    return epochs * (len(task.data) // recipe.run.batch) if epochs else 0


WATCHED = ("knn", "effective_rank", "target_cosine")


def check_best(task: Task, recipe: Recipe) -> None:
    """Refuses, before the first step, to keep the best state by a number that no evaluation will give.

    Raises:
        FdlabError: code 2.
    """
    known = [*task.evaluated, *(WATCHED if recipe.watch.every else ())]
    if recipe.save.best and recipe.save.best not in known:
        raise FdlabError(
            f"No evaluation of this run gives {recipe.save.best!r} to keep the best state by."
            + nearest(recipe.save.best, known),
            f"There will be: {', '.join(known) or 'nothing'}.",
            "Correct save.best, or set watch.every, data.test or data.validation for the number it needs.",
            code=USAGE,
        )


class Watch:
    """Measures k-NN accuracy, effective rank and cosine to the target with the weights of this moment.

    ``knn``: share of the judged images whose class 20 neighbours among the labelled training images vote for.
    ``effective_rank``: of the judged images' centred mean tokens. ``target_cosine``: where the task has a target.
    All on the same images each time, unaugmented.

    Raises:
        FdlabError: code 2, the best state is to be kept by a number that test images give.
    """

    def __init__(self, task: Task, recipe: Recipe) -> None:
        settings, seed = recipe.watch, recipe.run.seed
        held = task.validation or task.test
        if recipe.save.best in WATCHED and held is not None and held is task.test:
            raise FdlabError(
                f"The best state by {recipe.save.best!r} would be chosen on test images.",
                "Their accuracy would then say too much.",
                "Set data.validation=N to hold training images out, or leave data.test empty.",
                code=USAGE,
            )
        self.task, self.judged = task, (held or task.data).sample(settings.images, seed)
        self.bank = task.data.sample(settings.labelled, seed) if held and _labelled(task.data, held) else None
        if held is None:
            task.notes.append("Watched numbers are of training images: no others were given.")

    def __call__(self) -> dict[str, float]:
        features, labels = self._features(self.judged)
        centred = (features - features.mean(0)).double()
        numbers = {"effective_rank": float(effective_rank(torch.linalg.svdvals(centred)))}
        if self.bank is not None:
            predicted = knn_predict(*self._features(self.bank), features)
            numbers["knn"] = float((predicted == labels).double().mean())
        cosines = [(self.task.agreement(part), len(part)) for part, _ in self._batches(self.judged)]
        if cosines and cosines[0][0] is not None:
            numbers["target_cosine"] = sum(c * n for c, n in cosines if c is not None) / sum(n for _, n in cosines)
        return numbers

    def _batches(self, images: ImageSource) -> Iterator[tuple[Tensor, Tensor]]:
        ranges = (range(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH))
        batches = stacked(images, ranges, self.task.size, workers=self.task.workers, device=str(self.task.device))
        return (batch for batch in batches if len(batch[0]))

    def _features(self, images: ImageSource) -> tuple[Tensor, Tensor]:
        """(n, C) features and (n,) labels, on the CPU."""
        pairs = [(self.task.kept_features(part).float().cpu(), labels) for part, labels in self._batches(images)]
        return torch.cat([features for features, _ in pairs]), torch.cat([labels for _, labels in pairs])


def attention_probe(task: Task, recipe: Recipe, folder: RunFolder, every: int) -> Callable[[int], None]:
    """A callback of the trainer that keeps the attention probe's record in ``probes/`` every ``every`` steps."""
    data, images = recipe.data.test or recipe.data.source, recipe.watch.probe_images
    seed, device = recipe.run.seed, str(task.device)

    def probe(step: int) -> None:
        if step % every:
            return
        label = f"{folder.path.name} step {step}"
        task.train_mode(False)
        with TemporaryDirectory() as name:
            path = Path(name) / "encoder.safetensors"
            save(task, path, task.family, seed)
            table = measure("attention", {label: path}, data, images, seed, device=device, store=Store(name))
        task.train_mode(True)
        record = table.attrs["record"][label]
        record.manifest |= {"run": str(folder.path), "step": step}
        record.save(folder.path / "probes" / f"attention-{step:07d}")

    return probe


def _labelled(*sources: ImageSource) -> bool:
    return all(len(source) and source.labels().min() >= 0 for source in sources)
