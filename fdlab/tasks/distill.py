"""Feature distillation, the paper's method (Wei et al. 2022, arXiv 2205.14141, section 3).

All final tokens of the frozen teacher, after its own final norm, are whitened (LayerNorm without scale
and shift); a fresh student behind a linear projector (the paper's 1x1 convolution) predicts them under
smooth L1. Both see the same view, each through its own normalisation; only the student has drop path.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.data.sending import sent
from fdlab.encoders.cost import Cost, cost_of, dense
from fdlab.encoders.student import Init, Position, build, seeded
from fdlab.engine.distributed import current
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import BETA, feature_loss
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task
from fdlab.tasks.masking import draw_mask, hidden, new_mask_token
from fdlab.tasks.targets import Target, TargetSettings


class StudentSettings(ModelSettings):
    """The paper's student: one relative bias shared over the blocks, layer scale 0.1, no absolute table."""

    position: Position = "shared_bias"
    layer_scale: float = Field(0.1, ge=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    init: Init = "beit"


class DistillSettings(TargetSettings):
    """Which teacher and target (``TargetSettings``), which loss, which student."""

    loss: Literal["smooth_l1", "mse", "cosine", "kl"] = "smooth_l1"
    beta: float = Field(BETA, gt=0, description="where smooth L1 turns linear")
    temperature: float = Field(1.0, gt=0, description="of kl")
    mask: float = Field(0.0, ge=0, lt=1, description="share of the student's patches that a mask token replaces")
    mask_loss: Literal["masked", "visible", "all"] = Field("masked", description="where masked: which tokens count")
    projector_hidden: int = Field(0, ge=0, description="hidden width of the projector; 0: linear, as the paper's")
    others: tuple[TargetSettings, ...] = Field((), description="further teachers, each with its own projector")
    student: StudentSettings = StudentSettings()


class Distill(Task):
    """Distils the features of frozen teachers into a fresh student."""

    name = "distill"
    Settings = DistillSettings
    family = "distilled"
    result = "student.safetensors"

    def build(self) -> None:
        settings: DistillSettings = self.settings
        if not settings.teacher or not all(other.teacher for other in settings.others):
            raise FdlabError(
                "There is no teacher to distil.",
                "distill.teacher is empty." if not settings.teacher else "One of distill.others has no teacher.",
                "Give --teacher SOURCE (a checkpoint file, a run folder or timm:NAME).",
                code=USAGE,
            )
        common: dict[str, Any] = {"size": self.size, "seed": self.seed, "device": self.device, "low": self.low}
        self.targets = [Target(each, **common) for each in (settings, *settings.others)]
        self.teacher = self.targets[0].encoder
        self.design = settings.student.design(self.size, self.teacher.info)
        self._check()
        if not self.teacher.info.heads and not settings.student.heads and not self.design.stages:
            self.notes.append(
                f"The teacher has no heads to take over: the student has {self.design.heads} "
                "(distill.student.heads says another number)."
            )
        encoder = build(self.design, seed=seed_for(self.seed, "student"))
        self.module = nn.ModuleDict({"encoder": encoder})
        for number, target in enumerate(self.targets):
            tail = f"_{number}" if number else ""
            self.notes += target.fit_student(self.design)
            self.inputs[f"teacher{tail}"] = target.info.sha256
            with seeded(seed_for(self.seed, f"projector{tail}")):
                self.module[f"projector{tail}"] = self._projector(settings.projector_hidden, target.width)
            target.fit_statistics(self.data)
            if target.statistics is not None:
                self.module[f"whitening{tail}"] = target.statistics
        if settings.mask:
            with seeded(seed_for(self.seed, "mask token")):
                self.module["mask"] = new_mask_token(self.design.width)

    @property
    def frozen(self) -> list[nn.Module]:
        return [target.encoder.module for target in self.targets]

    def _flops(self, cost: Cost) -> float:
        """The student and its projectors are trained; the teachers only run."""
        teachers = [cost_of(target.encoder.module) for target in self.targets]
        if not all(teachers):
            return 0.0
        heads = sum(
            dense(self.module[f"projector_{number}" if number else "projector"], target.tokens)
            for number, target in enumerate(self.targets)
        )
        return cost.training() + 3 * heads + sum(teacher.forward for teacher in teachers if teacher)

    def _check(self) -> None:
        assert self.design is not None
        settings: DistillSettings = self.settings
        flat = [target for target in self.targets if not target.spatial]
        faults = {
            f"The student takes {self.design.image_size} px, the views have {self.size} px.": (
                self.design.image_size != self.size,
                "Leave distill.student.image_size out; data.size decides.",
            ),
            "A SwinV2 student cannot be masked here: its tokens are coarser than its patches.": (
                bool(settings.mask and self.design.stages),
                "Set distill.mask=0, or leave distill.student.stages out.",
            ),
            "A target that is no map has no masked tokens to count.": (
                bool(settings.mask and flat and settings.mask_loss != "all"),
                "Set distill.mask_loss=all, or distill.target=tokens or patches.",
            ),
        }
        for what, (wrong, fix) in faults.items():
            if wrong:
                raise FdlabError(what, fix=fix, code=USAGE)

    def _projector(self, hidden_width: int, target_width: int) -> nn.Module:
        """From the student's width to the teacher's: linear (the paper's 1x1 convolution), or two layers."""
        assert self.design is not None
        width = self.design.token_width
        if not hidden_width:
            return nn.Linear(width, target_width)
        return nn.Sequential(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, target_width))

    def teacher_tokens(self, images: Tensor) -> Tensor:
        """(B, N, C) tokens of the (first) teacher for raw ``images``, on the student's grid, not yet whitened."""
        return self.targets[0].raw(images)

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch.images[0]), {}

    def after_step(self, step: int) -> None:
        for target in self.targets:
            if target.statistics is not None:
                target.statistics.follow()

    def loss(self, images: Tensor) -> Tensor:
        """The distillation loss of raw images (B, 3, H, W); masked in training mode only."""
        settings: DistillSettings = self.settings
        goals = [target(images) for target in self.targets]
        mask = self._mask(len(images)) if settings.mask and self.module.training else None
        if mask is None:
            student = self.tokens(images)
        else:
            with hidden(self.encoder, self.module["mask"].get_parameter("mask_token"), mask):
                student = self.tokens(images)
        losses = []
        for goal, predicted in zip(goals, self._predictions(student, goals), strict=True):
            weight = None if mask is None else self._weight(mask, goal.shape[1])
            losses.append(
                feature_loss(
                    predicted, goal, settings.loss, beta=settings.beta, temperature=settings.temperature, weight=weight
                )
            )
        if len(losses) == 1:
            return losses[0]
        shares = [target.settings.weight / sum(t.settings.weight for t in self.targets) for target in self.targets]
        return sum(share * loss for share, loss in zip(shares, losses, strict=True))  # type: ignore[return-value]

    def _predictions(self, student: Tensor, goals: list[Tensor]) -> list[Tensor]:
        """The projections of the student's tokens (B, N, C), one (B, n, D) for each teacher's target."""
        predictions = []
        for number, (target, goal) in enumerate(zip(self.targets, goals, strict=True)):
            projector = self.module[f"projector_{number}" if number else "projector"]
            predictions.append(projector(target.predictors(student, self.prefix_tokens, goal.shape[1])))
        return predictions

    def agreement(self, images: Tensor) -> float:
        """Mean over tokens, and over teachers by weight, of the cosine between prediction and target."""
        goals = [target(images) for target in self.targets]
        predictions = self._predictions(self.tokens(images), goals)
        weights = [target.settings.weight for target in self.targets]
        cosines = [F.cosine_similarity(a.float(), b, dim=-1).mean() for a, b in zip(predictions, goals, strict=True)]
        return sum(w * float(c) for w, c in zip(weights, cosines, strict=True)) / sum(weights)

    def _mask(self, batch: int) -> Tensor:
        assert self.design is not None
        height, width = self.design.grid
        return sent(draw_mask(batch, height * width, self.settings.mask), self.device)

    def _weight(self, mask: Tensor, count: int) -> Tensor | None:
        """(B, count) bool: the tokens that count, a class token with the visible ones; None: all."""
        if self.settings.mask_loss == "all":
            return None
        counted = mask if self.settings.mask_loss == "masked" else ~mask
        before = counted.new_full((len(mask), count - mask.shape[1]), self.settings.mask_loss == "visible")
        return torch.cat([before, counted], 1)

    @property
    def evaluated(self) -> list[str]:
        return ["test_loss"] if self.test is not None else []

    def evaluate(self) -> dict[str, float]:
        """The loss on held-out images, without augmentation or mask."""
        if self.test is None:
            return {}
        ranks, count = current(), min(256, len(self.test))
        (positions,) = ranks.turns(count, -(-count // ranks.ranks))
        images, _ = self.test.stack(positions, self.size)
        if ranks.alone:
            return {"test_loss": float(self.loss(images))}
        loss = self.loss(images if len(images) else torch.zeros(1, 3, self.size, self.size))
        total, seen = ranks.total(float(loss) * len(images), len(images))
        return {"test_loss": total / max(seen, 1.0)}
