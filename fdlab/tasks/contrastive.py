"""Contrastive learning: SimCLR (Chen et al. 2020, arXiv 2002.05709) on the mean patch token."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.encoders.cost import Cost, dense
from fdlab.encoders.student import build, seeded
from fdlab.engine.gathering import gathered
from fdlab.measures.losses import nt_xent
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings


class ContrastiveSettings(TaskSettings):
    """SimCLR's head and temperature, and the model."""

    temperature: float = Field(0.2, gt=0)
    hidden: int = Field(128, ge=1, description="width of the projection head's hidden layer")
    output: int = Field(64, ge=1, description="width of the projection")
    model: ModelSettings = ModelSettings()


class Contrastive(Task):
    """Two views of an image attract, those of other images repel. The trained token is the mean patch."""

    name = "contrastive"
    Settings = ContrastiveSettings
    family = "contrastive"
    views = 2
    couples_images = True

    def build(self) -> None:
        settings: ContrastiveSettings = self.settings
        self.design = settings.model.design(self.size)
        encoder = build(self.design, seed=seed_for(self.seed, "contrastive"))
        with seeded(seed_for(self.seed, "projection")):
            head = nn.Sequential(
                nn.Linear(self.design.token_width, settings.hidden),
                nn.BatchNorm1d(settings.hidden),
                nn.ReLU(),
                nn.Linear(settings.hidden, settings.output),
            )
        self.module = nn.ModuleDict({"encoder": encoder, "projection": head})

    def _flops(self, cost: Cost) -> float:
        return 2 * (cost.training() + 3 * dense(self.module["projection"]))

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        both = torch.cat(batch.images)
        projected = self.module["projection"](gathered(self.pooled(self.tokens(both)), views=2))
        first, second = projected.chunk(2)
        return nt_xent(first, second, self.settings.temperature), {}
