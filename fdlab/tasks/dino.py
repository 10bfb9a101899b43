"""Self-distillation without labels: DINO (Caron et al. 2021, arXiv 2104.14294), with two global views.

A student predicts a slow copy of itself on the other view: softmax over prototypes, the copy's outputs
centred and sharpened so that they do not collapse. Smaller than the original: no local crops, a constant
teacher temperature and weight decay.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.encoders.cost import Cost, dense
from fdlab.encoders.student import build, seeded
from fdlab.engine.distributed import current
from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings
from fdlab.tasks.momentum import SlowCopy, momentum_at


class DinoSettings(TaskSettings):
    """DINO's head, temperatures, centre and momentum, and the model."""

    prototypes: int = Field(1024, ge=2)
    hidden: int = Field(256, ge=1, description="width of the head's hidden layers")
    bottleneck: int = Field(64, ge=1, description="width of the normalised layer before the prototypes")
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    momentum: float = Field(0.996, ge=0, lt=1, description="of the slow copy at the first step; 1 at the last")
    freeze_last: float = Field(0.01, ge=0, le=1, description="share of the steps in which the prototypes stay")
    pool: Literal["patches", "class"] = Field("patches", description="the token that is trained")
    export: Literal["teacher", "student"] = Field("teacher", description="the network that is kept: the slow copy")
    model: ModelSettings = ModelSettings()


class DinoHead(nn.Module):
    """(B, C) -> (B, K): three layers to a bottleneck of length 1, then cosines to K prototypes."""

    def __init__(self, width: int, settings: DinoSettings) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.hidden),
            nn.GELU(),
            nn.Linear(settings.hidden, settings.bottleneck),
        )
        self.prototypes = nn.Parameter(torch.randn(settings.prototypes, settings.bottleneck))
        self.frozen: bool = False

    def forward(self, x: Tensor) -> Tensor:
        prototypes = self.prototypes.detach() if self.frozen else self.prototypes
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(prototypes, dim=-1))


def dino_loss(student: Tensor, teacher: Tensor, centre: Tensor, student_t: float, teacher_t: float) -> Tensor:
    """Mean of ``-sum_k p_k log q_k`` over views and images (Caron et al. 2021, algorithm 1), the same view left out.

    ``p = softmax((teacher - centre) / teacher_t)`` of one view, ``q = softmax(student / student_t)`` of the other.
    ``student`` and ``teacher`` (2, B, K), ``centre`` (K,). A uniform student scores ln K whatever the teacher:

    >>> outputs = torch.eye(4).expand(2, 4, 4)
    >>> round(float(dino_loss(torch.zeros(2, 4, 4), outputs, torch.zeros(4), 0.1, 0.04)), 4)
    1.3863
    """
    target = ((teacher - centre) / teacher_t).softmax(-1)
    log_p = F.log_softmax(student / student_t, -1)
    return -(target.flip(0) * log_p).sum(-1).mean()


class Dino(Task):
    """A student and its slow copy see two views of an image; each view's copy is predicted from the other."""

    name = "dino"
    Settings = DinoSettings
    family = "contrastive"
    views = 2
    slow_copy = True

    def build(self) -> None:
        settings: DinoSettings = self.settings
        self.design = settings.model.design(self.size)
        if settings.pool == "class" and not self.design.class_token:
            raise FdlabError(
                "The model has no class token to train.", fix="Set dino.model.class_token=true.", code=USAGE
            )
        encoder = build(self.design, seed=seed_for(self.seed, "dino"))
        with seeded(seed_for(self.seed, "head")):
            head = DinoHead(self.design.token_width, settings)
        self.module = nn.ModuleDict({"encoder": encoder, "head": head})
        self.slow = SlowCopy(self.module, ("encoder", "head")).to(self.device)
        self.centre = torch.zeros(settings.prototypes, device=self.device)
        self._seen: list[tuple[Tensor, int]] = []

    @property
    def kept_encoder(self) -> nn.Module:
        return self.slow["encoder"] if self.settings.export == "teacher" else self.encoder

    @property
    def steady(self) -> bool:
        return self.settings.freeze_last == 0  # else the prototypes join later

    def _flops(self, cost: Cost) -> float:
        """Two views through both networks; the slow one only runs."""
        head = dense(self.module["head"]) + 2 * self.settings.prototypes * self.settings.bottleneck
        return 2 * (cost.training() + 3 * head + cost.forward + head)

    def _outputs(self, parts: nn.ModuleDict, images: Tensor) -> Tensor:
        """(2, B, K) of both views, one after the other in ``images``."""
        tokens = self.tokens_of(parts["encoder"], images)
        pooled = tokens[:, 0] if self.settings.pool == "class" else self.pooled(tokens)
        return parts["head"](pooled).unflatten(0, (2, -1))

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        settings: DinoSettings = self.settings
        head: DinoHead = self.module["head"]  # type: ignore[assignment]
        head.frozen = step < settings.freeze_last * self.steps
        both = torch.cat(batch.images)
        with torch.no_grad():
            teacher = self._outputs(self.slow, both)
        student = self._outputs(self.module, both)
        self._seen.append((teacher.sum((0, 1)), 2 * teacher.shape[1]))
        loss = dino_loss(student, teacher, self.centre, settings.student_temperature, settings.teacher_temperature)
        target = ((teacher - self.centre) / settings.teacher_temperature).softmax(-1)
        entropy = -(target * target.clamp_min(1e-12).log()).sum(-1).mean()
        return loss, {"teacher_entropy": entropy}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """The slow copy and the centre follow, after all parts of the batch, on all ranks, have used the old ones."""
        settings: DinoSettings = self.settings
        self.slow.follow(self.module, momentum_at(step, self.steps, settings.momentum))
        ranks = current()
        count = ranks.total(sum(seen[1] for seen in self._seen))[0]
        mean = ranks.sum_tensor(torch.stack([seen[0] for seen in self._seen]).sum(0)) / count
        self._seen.clear()
        self.centre.lerp_(mean, 1 - settings.centre_momentum)

    @property
    def frozen(self) -> list[nn.Module]:
        return [self.slow["encoder"]]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "slow": self.slow.state_dict(), "centre": self.centre}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.slow.load_state_dict(state["slow"])
        self.centre.copy_(state["centre"])
