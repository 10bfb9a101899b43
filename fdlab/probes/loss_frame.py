"""What the three probes of a loss share: an objective on fixed images, progress in passes, one form of record.

Do not compare numbers of two objectives, or of two sets of images: the record names both beside every number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.products import Hessian
from fdlab.probes.objectives import Objective, build_objective, heads_identity
from fdlab.probes.probe import expect, manifest_of
from fdlab.records.store import Record
from fdlab.records.table import frame

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

Row = dict[str, Any]
Arrays = dict[str, np.ndarray]
Parameters = Literal["encoder", "all"]


@dataclass
class LossFrame:
    """One measurement of a loss: the fixed images and labels, and the objective that is built on them.

    Args:
        probe, version: the probe's, for the record.
        images: (n, 3, H, W) in [0, 1] at the model's size, or what gives slices of it; all are read here.
        labels: (n,) classes or what gives slices of it; None where some image has none.
        label: the model's name in the table.
        seed: of masks, directions and intervals.
        batch: images in one pass: memory, not the result.
        progress: is told of every pass; None for nobody.
        objective, teacher, parameters: as in ``build_objective``; no teacher is ``""``.
    """

    probe: str
    version: int
    images: Tensor
    labels: Tensor | None
    label: str
    seed: int
    batch: int
    progress: Any
    objective: str
    teacher: Encoder | str
    parameters: Parameters

    def __post_init__(self) -> None:
        self.images = self.images[0 : len(self.images)]
        self.labels = None if self.labels is None else self.labels[0 : len(self.labels)]

    def objective_of(self, encoder: Encoder) -> Objective:
        """The objective of one model, in eval mode: the measured one, or another on the same images.

        Raises:
            FdlabError: what ``build_objective`` raises.
        """
        return build_objective(
            self.objective,
            encoder,
            self.images,
            self.labels,
            teacher=self.teacher or None,
            micro_batch=self.batch,
            seed=self.seed,
            parameters=self.parameters,
        )

    def plan(self, units: int) -> None:
        """Says how many passes (or points, or products) are expected."""
        expect(self.progress, units)

    def advance(self, units: int = 1) -> None:
        """Says that some of them are done."""
        if self.progress is not None:
            self.progress.advance(units)

    def record(
        self,
        encoder: Encoder,
        objective: Objective,
        part: str,
        rows: Sequence[Row],
        arrays: Arrays,
        facts: Mapping[str, Any],
        description: str = "",
    ) -> Record:
        """The record of these rows and arrays; ``description`` in place of the objective's own.

        The objective's mean loss stands beside the rows: curvature and sharpness at losses of other sizes do not
        compare.
        """
        words = description or objective.description
        if self.probe in LOSS_BESIDE and not any(row["metric"].startswith("objective_loss") for row in rows):
            rows = [*rows, {"metric": "objective_loss", "value": float(losses_of(objective).double().mean())}]
        columns = {
            "model": self.label,
            "family": encoder.info.family,
            "seed": self.seed,
            "probe": self.probe,
            "n": objective.images,
            "objective": words,
        }
        manifest = manifest_of(self.probe, self.version, encoder, self.label, self.seed, objective.images)
        manifest |= {"part": part, "objective": words, **objective.facts, **facts}
        return Record(frame([{**columns, **row} for row in rows]), arrays, manifest)


def identity(encoder: Encoder, _settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a loss depends on beside the encoder's weights: the heads that its run folder keeps."""
    return dict(heads_identity(encoder))


def losses_of(objective: Objective) -> Tensor:
    """(n,) losses at the present weights."""
    with torch.no_grad():
        return torch.cat([objective.losses(batch) for batch in objective.batches])


def hessian_of(objective: Objective) -> Hessian:
    """The Hessian of an objective over its parameters, as products with vectors."""
    sizes = [len(inputs) for inputs, _ in objective.batches]
    return Hessian(objective.loss, list(objective.parameters.values()), objective.batches, sizes)


# The probes whose numbers depend on how large the loss is where they are taken.
LOSS_BESIDE = ("hessian", "sharpness")


@torch.no_grad()
def change_of_tokens(encoder: Encoder, other: Encoder, sample: Tensor) -> float:
    """The largest change of a token from one model to another, in parts of the largest token.

    Args:
        sample: (b, 3, H, W) images in [0, 1] that both see.
    """
    first, second = (model.tokens(model.normalise(sample)) for model in (encoder, other))
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))
