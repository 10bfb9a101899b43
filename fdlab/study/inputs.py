"""The inputs of a training: its images, its task on a device, its batches, and how many steps it has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fdlab.data.folders import shortened
from fdlab.data.images import ImageSource
from fdlab.data.loader import Batches
from fdlab.data.resident import resident
from fdlab.data.sources import open_data
from fdlab.data.splits import split_labelled
from fdlab.engine.distributed import current
from fdlab.engine.settings import Recipe
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.tasks.base import Task


def identities(task: Task) -> dict[str, str]:
    """Digests of what must be unchanged when a run continues: its images, and the models that it starts from."""
    sources = {"data": task.data, "test": task.test, "validation": task.validation}
    return task.inputs | {name: source.digest for name, source in sources.items() if source is not None}


def prepared(recipe: Recipe, kind: type[Task], device: str) -> tuple[Task, Callable[[int], Batches], int]:
    """The task on its device, ``batches(start)``, and the number of steps.

    Raises:
        FdlabError: code 2, settings that do not fit each other or the data.
    """
    data, test, validation = _images(recipe)
    size = recipe.data.size or (data.native_size[0] if data.native_size else 224)
    held_out = {"test": test, "validation": validation}
    run, low = recipe.run, recipe.run.precision == "bf16"
    task = kind(recipe.own, data, size=size, seed=run.seed, device=device, low=low, workers=run.workers, **held_out)
    _check_parts(task, recipe)
    task.steps = steps = recipe.run.steps or _length(recipe, data)
    ranks = current()
    kept = resident(recipe.data.resident, data, size=size, device=device, view=recipe.view)

    def batches(start: int) -> Batches:
        return Batches(
            data,
            size=size,
            batch=run.batch,
            seed=run.seed,
            view=recipe.view,
            views=kind.views,
            start=start,
            stop=steps,
            workers=run.workers,
            part=(ranks.rank, ranks.ranks),
            device=device,
            resident=kept,
        )

    return task, batches, steps


def planned_steps(recipe: Recipe) -> int:
    """Optimiser steps of the whole run, without building its task.

    Raises:
        FdlabError: code 2, the run has no length.
    """
    return recipe.run.steps or _length(recipe, _images(recipe)[0])


def _length(recipe: Recipe, data: ImageSource) -> int:
    """Steps of a run whose length is told in epochs."""
    if data.endless or not recipe.run.epochs:
        raise FdlabError(
            "The training has no length.",
            "run.steps and run.epochs are 0, or the data is endless.",
            "Give --set run.steps=...",
            code=USAGE,
        )
    return recipe.run.epochs * (len(data) // recipe.run.batch)


def _check_parts(task: Task, recipe: Recipe) -> None:
    ranks, batch = current().ranks, recipe.run.batch
    parts = recipe.run.accumulate * ranks
    if recipe.run.accumulate > 1 and task.couples_images:
        raise FdlabError(
            f"A batch of {recipe.task} cannot be computed in {recipe.run.accumulate} parts, one after the other.",
            "Its loss or its batch norm compares the images of a batch with each other: all must be there at once.",
            "Set run.accumulate=1; several processes (torchrun) share such a batch.",
            code=USAGE,
        )
    if batch % parts:
        raise FdlabError(
            f"A batch of {batch} has no {parts} equal parts.",
            f"{ranks} ranks x {recipe.run.accumulate} parts." if ranks > 1 else "",
            f"Change run.batch, e.g. to {max(batch // parts, 1) * parts}, or run.accumulate.",
            code=USAGE,
        )


def _images(recipe: Recipe) -> tuple[ImageSource, ImageSource | None, ImageSource | None]:
    """Training, test and validation images; disjoint where they come from one source."""
    data = open_data(recipe.data.source, seed=recipe.run.seed)
    test = open_data(recipe.data.test, seed=recipe.run.seed) if recipe.data.test else None
    validation = None
    if recipe.data.per_class or recipe.data.validation:
        labelled, held = labelled_split(data, recipe)
        validation = data.subset(held) if len(held) else None
        data = data.subset(labelled)
    if test is not None:
        test = check_held_out(data, test)
        if validation is not None:
            check_held_out(validation, test)
    return data, test, validation


def check_held_out(data: ImageSource, test: ImageSource) -> ImageSource:
    """The test images, their labels counted in the classes of ``data``; those that are trained on are refused.

    Test images may have fewer classes than ``data``, as the test part of a folder may, but no other ones.

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
    if not data.classes or not test.classes:
        return test
    if strange := [name for name in test.classes if name not in data.classes]:
        missing = [name for name in data.classes if name not in test.classes]
        also = f" It has none of {shortened(missing)}." if missing else ""
        raise FdlabError(
            f"{data.spec} and {test.spec} have different classes.",
            f"Only {test.spec} has {shortened(strange)}.{also}",
            "Give test images of the same classes.",
            code=USAGE,
        )
    return test.numbered_as(data.classes)


def labelled_split(data: ImageSource, recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the labelled and of the validation images: disjoint, drawn from ``data.label_seed`` alone."""
    settings = recipe.data
    labels = data.labels()
    if data.unlabelled and len(labels) and labels.min() < 0:
        raise FdlabError(f"Some images of {data.spec} have no labels.", data.unlabelled + ".", code=NOT_UNDERSTOOD)
    labelled, held = split_labelled(
        labels, per_class=settings.per_class, validation=settings.validation, seed=settings.label_seed
    )
    return (labelled if settings.per_class else np.setdiff1d(np.arange(len(labels)), held)), held
