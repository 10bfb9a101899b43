"""The loss of a model's own fine-tuning: its classifier on images that are augmented as its recipe says.

Park & Kim (2022) look at losses of augmented training images, and so does the paper after them; other work at clean
ones, where the same weights have another curvature. Here each image is augmented once, from the seed: the loss is one
fixed function, which every model of one recipe shares.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.data.loader import Batch
from fdlab.data.transforms import View, apply, draw_views
from fdlab.engine.mixing import MixSettings, erase, mix
from fdlab.errors import USAGE, FdlabError
from fdlab.probes.objectives.classifiers import classifier
from fdlab.probes.objectives.heads import kept_recipe
from fdlab.probes.objectives.objective import Objective, checked_labels, split

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


def fine_tuning(encoder: Encoder, images: Tensor, labels: Tensor | None, micro: int, seed: int) -> Objective:
    """Cross-entropy of the run's own classifier, with its views, mixing and label smoothing; no dropout or drop path.

    Args:
        images: (n, 3, H, W) in [0, 1] at the model's size. labels: (n,).
        micro: images in one pass. seed: of the views and of the mixing.

    Raises:
        FdlabError: the model is no run of a fine-tuning, or what ``classifier`` raises.
    """
    recipe = kept_recipe(encoder)
    if recipe.get("task") != "classify":
        raise FdlabError(
            "This model keeps no recipe of a fine-tuning.",
            "The objective fine-tuning augments images as the run did, whose folder says how.",
            "Name the run folder of fdlab finetune, or use --objective classifier, which augments nothing.",
            USAGE,
        )
    labels = checked_labels(labels, len(images))
    plain = classifier(encoder, encoder.normalise(images), labels, micro)
    classes = plain.output(plain.batches[0][0]).shape[-1]
    settings = recipe.get("classify", {})
    view, mixing = View(**recipe.get("view", {})), MixSettings(**settings.get("mix", {}))
    mixed, targets = _augmented(encoder, images, labels, view, mixing, seed, int(recipe["run"]["batch"]), classes)
    smoothing = float(settings.get("smoothing", 0.0))
    smooth = (1 - smoothing) * targets + smoothing / classes

    def criterion(logits: Tensor, aims: Tensor) -> Tensor:
        return -(aims * F.log_softmax(logits, -1)).sum(-1)

    def right(logits: Tensor, aims: Tensor) -> Tensor:
        return logits.argmax(-1) == aims.argmax(-1)

    return replace(
        plain,
        name="fine-tuning",
        description=f"cross-entropy of the model's own fine-tuning ({_said(view, mixing, smoothing)}); {len(images)} "
        "images, each augmented once, eval mode",
        batches=split(encoder.normalise(mixed), smooth.to(plain.batches[0][0].device), micro),
        criterion=criterion,
        right=None if mixing.mixup or mixing.cutmix else right,  # a mixed image has no one class
    )


def _augmented(
    encoder: Encoder,
    images: Tensor,
    labels: Tensor,
    view: View,
    mixing: MixSettings,
    seed: int,
    batch: int,
    classes: int,
) -> tuple[Tensor, Tensor]:
    """(n, 3, H, W) views in [0, 1], mixed in batches of the run's size, and the classes' shares (n, classes)."""
    size = int(images.shape[-1])
    views = apply(images, view, draw_views(view, seed, [(i,) for i in range(len(images))], size), size, direct=True)
    parts, shares = [], []
    for step, places in enumerate(torch.arange(len(images)).split(batch)):
        own = Batch(step, [views[places]], labels.to(views.device)[places], places)
        own = mix(erase(own, mixing.erase, seed, encoder.info.mean, encoder.info.std), mixing, classes, seed)
        parts.append(own.images[0])
        shares.append(F.one_hot(own.labels, classes).float() if own.targets is None else own.targets)
    return torch.cat(parts), torch.cat(shares)


def _said(view: View, mixing: MixSettings, smoothing: float) -> str:
    """The settings that differ from none, as the recipe has them."""
    kept: dict[str, Any] = {**view.model_dump(exclude_defaults=True), **mixing.model_dump(exclude_defaults=True)}
    if smoothing:
        kept["smoothing"] = smoothing
    return ", ".join(f"{name} {value}" for name, value in kept.items()) or "no augmentation"
