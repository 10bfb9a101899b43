"""Feature distillation, the paper's method (Wei et al. 2022, arXiv 2205.14141, section 3).

All final tokens of the frozen teacher, after its own final norm, are whitened (LayerNorm without scale
and shift); a fresh student behind a linear projector (the paper's 1x1 convolution) predicts them under
smooth L1. Both see the same view, each through its own normalisation; only the student has drop path.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.encoders.open import open_model
from fdlab.encoders.student import build
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import distillation_loss, whiten
from fdlab.randomness import seed_for
from fdlab.tasks.alignment import aligned, describe
from fdlab.tasks.base import Init, ModelSettings, OwnSettings, Position, Task


class StudentSettings(ModelSettings):
    """The paper's student: one relative bias shared over the blocks, layer scale 0.1, no absolute table."""

    position: Position = "shared_bias"
    layer_scale: float = Field(0.1, ge=0)
    drop_path: float = Field(0.1, ge=0, lt=1)
    init: Init = "beit"


class DistillSettings(OwnSettings):
    """Which teacher, which loss, which student."""

    teacher: str = Field("", description="SOURCE of the teacher: a file, a run folder, timm:NAME, ...")
    beta: float = Field(2.0, gt=0, description="where smooth L1 turns linear")
    student: StudentSettings = StudentSettings()


class Distill(Task):
    """Distils the features of a frozen teacher into a fresh student."""

    name = "distill"
    Settings = DistillSettings
    family = "distilled"
    result = "student.safetensors"

    def build(self) -> None:
        own: DistillSettings = self.settings
        if not own.teacher:
            raise FdlabError(
                "There is no teacher to distil.",
                "distill.teacher is empty.",
                "Give --teacher SOURCE (a checkpoint file, a run folder or timm:NAME).",
                code=USAGE,
            )
        # The teacher is no part of `module`: it is neither trained, nor put in training mode, nor saved.
        self.teacher = open_model(own.teacher, device=self.device, seed=self.seed)
        self.teacher.module.requires_grad_(False)
        info = self.teacher.info
        self.design = own.student.design(self.size, info)
        if self.design.image_size != self.size:
            raise FdlabError(
                f"The student takes {self.design.image_size} px, the views have {self.size} px.",
                "",
                "Leave distill.student.image_size out; data.size decides.",
                code=USAGE,
            )
        side = self.design.image_size // self.design.patch_size
        self.grid = (side, side)
        student = build(self.design, seed=seed_for(self.seed, "student"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.seed, "projector"))
            projector = nn.Linear(self.design.width, info.width)
        self.module = nn.ModuleDict({"encoder": student, "projector": projector})
        self.inputs = {"teacher": info.sha256}
        self.notes = describe(info, self.grid, self.design.class_token, self.size)

    def teacher_tokens(self, images: Tensor) -> Tensor:
        """(B, N, C) tokens of the teacher for raw ``images``, on the student's grid, not yet whitened."""
        info = self.teacher.info
        side = (info.image_size,) * 2 if isinstance(info.image_size, int) else tuple(info.image_size)
        assert self.design is not None
        with torch.no_grad():
            images = images.to(self.device)
            if images.shape[-2:] != torch.Size(side):
                images = F.interpolate(images, size=side, mode="bilinear", antialias=True)
            tokens = self.teacher.tokens(self.teacher.normalise(images))
        return aligned(tokens, info, self.grid, self.design.class_token)[0]

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch.images[0]), {}

    def loss(self, images: Tensor) -> Tensor:
        """The distillation loss of raw images (B, 3, H, W)."""
        target = whiten(self.teacher_tokens(images))
        student = self.tokens(images)
        # A class token that only the student has is trained through attention alone.
        student = student[:, student.shape[1] - target.shape[1] :]
        return distillation_loss(self.module["projector"](student), target, self.settings.beta)

    def evaluate(self) -> dict[str, float]:
        """The loss on held-out images, without augmentation."""
        if self.test is None:
            return {}
        images, _ = self.test.stack(range(min(256, len(self.test))), self.size)
        return {"test_loss": float(self.loss(images))}
