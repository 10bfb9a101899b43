"""What a training says before its first step: what is trained, on which images, how long, and where to look."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from fdlab.data.images import ImageSource
from fdlab.engine.settings import Recipe
from fdlab.measures.basis import free_memory
from fdlab.records.run_folder import RunFolder
from fdlab.tasks.base import Task


def headline(task: Task, recipe: Recipe, steps: int, folder: RunFolder) -> list[str]:
    """The lines, in order; nothing is computed that the first step would not compute anyway."""
    frozen = f", beside {_millions(task.frozen)} million frozen" if task.frozen else ""
    trained, patches = _millions([task.module], trained=True), _patches(task)
    lines = [
        f"trains {trained} million weights{frozen}, on images of {task.size} px{patches}",
        f"images: {_images(task)}",
        f"length: {_length(task, recipe, steps)}",
        f"memory: {_memory(task)}, and the values of a batch of {recipe.run.batch // recipe.run.accumulate} images",
        f"log: {folder.path / 'metrics.jsonl'}; Ctrl-C stops, and the same command goes on",
    ]
    return [line for line in lines if line]


def _millions(modules: Iterable[nn.Module], trained: bool = False) -> str:
    known = {id(p): p.numel() for module in modules for p in module.parameters() if p.requires_grad or not trained}
    return f"{sum(known.values()) / 1e6:.3g}"


def _patches(task: Task) -> str:
    embedding = getattr(task.encoder, "patch_embed", None)
    count = getattr(embedding, "num_patches", None)
    return f" ({count} patches)" if count else ""


def _images(task: Task) -> str:
    parts = [_counted(task.data, "to train on")]
    parts += [_counted(source, "to choose by") for source in (task.validation,) if source is not None]
    parts += [_counted(source, "to test on") for source in (task.test,) if source is not None]
    return ", ".join(parts)


def _counted(source: ImageSource, why: str) -> str:
    if source.endless:
        return f"drawn anew {why}"
    text = f"{len(source)} {why}"
    labels = source.labels() if source.classes and why == "to train on" else np.empty(0)
    if len(labels) and labels.min() >= 0:
        counts = np.bincount(labels, minlength=len(source.classes or ()))
        text += f" ({len(counts)} classes, the smallest of {counts.min()})"
    return text


def _length(task: Task, recipe: Recipe, steps: int) -> str:
    text = f"{steps} steps of {recipe.run.batch} images"
    if not task.data.endless and (each := len(task.data) // recipe.run.batch):
        text += f", {steps / each:.3g} epochs of {each} steps"
    return text


def _memory(task: Task) -> str:
    """Of what is there at every step: weights, gradients, two moments of each trained weight, frozen networks."""
    trained = sum(p.numel() * p.element_size() for p in task.module.parameters() if p.requires_grad)
    still = sum(p.numel() * p.element_size() for p in task.module.parameters() if not p.requires_grad)
    still += sum(p.numel() * p.element_size() for module in task.frozen for p in module.parameters())
    needed, free = 4 * trained + still, free_memory(torch.device(task.device))
    return f"{needed / 1e9:.2g} GB of {free / 1e9:.3g} free for weights, gradients and the optimizer"
