"""``Objective``: a mean loss of one module over fixed images, and what every kind of it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.errors import NOT_UNDERSTOOD, FdlabError

Batch = tuple[Tensor, Tensor]
PerImage = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Objective:
    """A mean loss of ``module`` over fixed images.

    ``description`` is the sentence that stands beside every result: the same for every model that was measured
    alike; what belongs to one model (the probe's loss, its accuracy, ...) is in ``facts``.
    ``parameters`` are those measured, by name without the head's prefix; ``batches`` the fixed micro-batches
    (inputs as the model takes them, targets). A batch of n_i images counts with n_i / N: the caller's arithmetic.
    """

    name: str
    description: str
    module: nn.Module
    parameters: dict[str, Tensor]
    batches: list[Batch]
    output: Callable[[Tensor], Tensor]  # inputs -> what the criterion takes
    criterion: PerImage  # (output, targets) -> (n,)
    right: PerImage | None = None  # (output, targets) -> (n,) bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images the loss is a mean over."""
        return sum(len(inputs) for inputs, _ in self.batches)

    def losses(self, batch: Batch) -> Tensor:
        """(n,): one loss an image."""
        return self.criterion(self.output(batch[0]), batch[1])

    def loss(self, batch: Batch) -> Tensor:
        """The mean over the batch."""
        return self.losses(batch).mean()

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """``losses`` and ``correct`` of one forward pass."""
        output = self.output(batch[0])
        return self.criterion(output, batch[1]), None if self.right is None else self.right(output, batch[1])

    def correct(self, batch: Batch) -> Tensor | None:
        """(n,) bool, or None where the objective knows no right answer."""
        return None if self.right is None else self.right(self.output(batch[0]), batch[1])


def checked_labels(labels: Tensor | None, images: int) -> Tensor:
    """The labels as int64, or an error where some are missing."""
    if labels is None or len(labels) != images or int(labels.min()) < 0:
        why = "None are given." if labels is None else f"{len(labels)} labels for {images} images, or some without."
        raise FdlabError(
            "These images have no labels.", why, "Use class folders, a label column or --data digits.", NOT_UNDERSTOOD
        )
    return labels.long()


def split(inputs: Tensor, targets: Tensor, micro: int) -> list[Batch]:
    """Fixed micro-batches, the last one short where it must be."""
    return list(zip(inputs.split(micro), targets.split(micro), strict=True))


def frozen(function: Callable[[Tensor], Tensor], inputs: Tensor, micro: int) -> Tensor:
    """``function`` of all inputs, without a gradient."""
    with torch.no_grad():
        return torch.cat([function(part) for part in inputs.split(micro)])
