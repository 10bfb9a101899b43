"""Masked image modelling after SimMIM (Xie et al. 2022, arXiv 2111.09886): a mask token, a linear decoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.data.sending import sent
from fdlab.encoders.cost import Cost, dense
from fdlab.encoders.student import build, seeded
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import masked_pixel_loss, patchify
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings
from fdlab.tasks.masking import draw_mask, hidden, new_mask_token


class MaskedSettings(TaskSettings):
    """How much is masked, what is predicted, and the model."""

    ratio: float = Field(0.6, gt=0, lt=1, description="share of the patches that is masked")
    loss: Literal["mse", "l1"] = "mse"
    per_patch: bool = Field(False, description="standardise each target patch (MAE's option)")
    model: ModelSettings = ModelSettings()


class Masked(Task):
    """Predicts the pixels of masked patches from the visible ones."""

    name = "masked"
    Settings = MaskedSettings
    family = "mim"

    def build(self) -> None:
        settings: MaskedSettings = self.settings
        self.design = settings.model.design(self.size)
        if self.design.stages:
            raise FdlabError(
                "A SwinV2 cannot be pre-trained by masking here.",
                "Its tokens are coarser than its patches.",
                "Leave masked.model.stages out.",
                code=USAGE,
            )
        encoder = build(self.design, seed=seed_for(self.seed, "masked"))
        with seeded(seed_for(self.seed, "decoder")):
            decoder = nn.Linear(self.design.token_width, 3 * self.design.patch_size**2)
            token = new_mask_token(self.design.width)
        self.module = nn.ModuleDict({"encoder": encoder, "decoder": decoder, "mask": token})

    def _flops(self, cost: Cost) -> float:
        assert self.design is not None
        height, width = self.design.grid
        return cost.training() + 3 * dense(self.module["decoder"], height * width)

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.design is not None
        images = self.normalise(batch.images[0].to(self.device))
        pixels = patchify(images, self.design.patch_size, standardise=self.settings.per_patch)
        mask = sent(draw_mask(len(images), pixels.shape[1], self.settings.ratio), images.device)
        tokens = self.tokens_masked(images, mask)
        predicted = self.module["decoder"](tokens[:, self.prefix_tokens :])
        return masked_pixel_loss(predicted, pixels, mask, self.settings.loss), {}

    def tokens_masked(self, images: Tensor, mask: Tensor) -> Tensor:
        """(B, N, C) tokens of normalised images whose masked patch embeddings are replaced by the mask token."""
        with hidden(self.encoder, self.module["mask"].get_parameter("mask_token"), mask):
            return self.encoder.forward_features(images)  # type: ignore[operator]
