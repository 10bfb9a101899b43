"""Momentum contrast for vision transformers: MoCo v3 (Chen et al. 2021, arXiv 2104.02057).

Each view's query finds, among the keys that a slow copy makes of the other views, that of its own image.
The patch projection stays as it was drawn, which keeps the training of a transformer stable (section 4 there).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.encoders.cost import Cost, dense
from fdlab.encoders.student import build, seeded
from fdlab.engine.gathering import gathered
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings
from fdlab.tasks.momentum import SlowCopy, momentum_at


class MocoSettings(TaskSettings):
    """MoCo v3's heads, temperature and momentum, and the model."""

    temperature: float = Field(0.2, gt=0)
    hidden: int = Field(256, ge=1, description="width of the hidden layers of projection and predictor")
    output: int = Field(64, ge=1, description="width of queries and keys")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the slow copy at the first step; 1 at the last")
    freeze_patch: bool = Field(True, description="the patch projection is not trained")
    model: ModelSettings = ModelSettings()


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """``-2 T log softmax(cos(q_i, k_j) / T)_i``, mean over the queries (B, D): each finds its own of the B keys.

    Chen et al. 2021 (arXiv 2104.02057), algorithm 1. Where all keys are alike it is ``2 T ln B``:

    >>> round(float(info_nce(torch.randn(4, 8), torch.ones(4, 8), temperature=0.5)), 4)
    1.3863
    """
    logits = F.normalize(queries.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).T / temperature
    return 2 * temperature * F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


class Moco(Task):
    """Queries of one view against the slow copy's keys of the other, both ways."""

    name = "moco"
    Settings = MocoSettings
    family = "contrastive"
    views = 2
    slow_copy = True
    couples_images = True

    def build(self) -> None:
        settings: MocoSettings = self.settings
        self.design = settings.model.design(self.size)
        encoder = build(self.design, seed=seed_for(self.seed, "moco"))
        if settings.freeze_patch:
            encoder.patch_embed.requires_grad_(False)
        with seeded(seed_for(self.seed, "projection")):
            projection = _mlp(self.design.token_width, settings.hidden, settings.hidden, settings.output)
            predictor = _mlp(settings.output, settings.hidden, settings.output)
        self.module = nn.ModuleDict({"encoder": encoder, "projection": projection, "predictor": predictor})
        self.slow = SlowCopy(self.module, ("encoder", "projection")).to(self.device)

    def _flops(self, cost: Cost) -> float:
        """Two views through both encoders; the keys' one only runs."""
        project, predict = dense(self.module["projection"]), dense(self.module["predictor"])
        fast = cost.training(frozen_patches=self.settings.freeze_patch) + 3 * (project + predict)
        return 2 * (fast + cost.forward + project)

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        both = torch.cat(batch.images)
        tokens = gathered(self.pooled(self.tokens(both)), views=2)
        queries = self.module["predictor"](self.module["projection"](tokens))
        self.slow["projection"].train()  # keys are normalised by their own batch, as queries are
        with torch.no_grad():
            keys = gathered(self.pooled(self.tokens_of(self.slow["encoder"], both)), views=2)
            keys = self.slow["projection"](keys)
        (q1, q2), (k1, k2) = queries.chunk(2), keys.chunk(2)
        t = self.settings.temperature
        return info_nce(q1, k2, t) + info_nce(q2, k1, t), {}

    def after_step(self, step: int) -> None:
        self.slow.follow(self.module, momentum_at(step, self.steps, self.settings.momentum))

    @property
    def frozen(self) -> list[nn.Module]:
        return [self.slow["encoder"]]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "slow": self.slow.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.slow.load_state_dict(state["slow"])


def _mlp(*widths: int) -> nn.Sequential:
    """Linear, batch norm and ReLU between; a batch norm without scale at the end."""
    layers: list[nn.Module] = []
    for index, (wide, narrow) in enumerate(zip(widths, widths[1:], strict=False)):
        last = index == len(widths) - 2
        layers += [nn.Linear(wide, narrow, bias=False), nn.BatchNorm1d(narrow, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)
