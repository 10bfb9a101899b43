"""Masked autoencoding: MAE (He et al. 2022, arXiv 2111.06377). The encoder sees the visible patches only."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from fdlab.data.loader import Batch
from fdlab.data.sending import sent
from fdlab.encoders.cost import cost_of, dense
from fdlab.encoders.positions import sincos_table
from fdlab.encoders.student import Design, build, seeded
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import masked_pixel_loss, patchify
from fdlab.randomness import seed_for
from fdlab.tasks.base import ModelSettings, Task, TaskSettings
from fdlab.tasks.masking import draw_mask, visible_places


class MaeSettings(TaskSettings):
    """How much is masked, the decoder, and the model."""

    ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that is masked")
    per_patch: bool = Field(True, description="standardise each target patch")
    width: int = Field(64, ge=4, description="of the decoder")
    depth: int = Field(2, ge=1, description="blocks of the decoder")
    heads: int = Field(4, ge=1, description="of the decoder")
    model: ModelSettings = ModelSettings()


class Decoder(nn.Module):
    """Visible tokens and mask tokens at their places -> pixels of every patch."""

    positions: Tensor  # (N, width), fixed

    def __init__(self, design: Design, settings: MaeSettings) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.patches = design.grid[0] * design.grid[1]
        self.embed = nn.Linear(design.width, settings.width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(settings.width))
        self.register_buffer("positions", sincos_table(design.grid, settings.width), persistent=False)
        self.blocks = nn.Sequential(
            *(Block(settings.width, settings.heads, qkv_bias=True) for _ in range(settings.depth))
        )
        self.norm = nn.LayerNorm(settings.width, eps=1e-6)
        self.pixels = nn.Linear(settings.width, 3 * design.patch_size**2)

    def forward(self, tokens: Tensor, places: Tensor, prefix: int) -> Tensor:
        """(B, prefix + visible, C) and the visible patches' places (B, visible) -> (B, N, 3 p p)."""
        visible = self.embed(tokens)
        empty = self.mask_token.expand(len(tokens), self.patches, -1)
        seen = visible[:, prefix:].to(empty.dtype)
        patches = empty.scatter(1, places.unsqueeze(-1).expand_as(seen), seen)
        everything = torch.cat([visible[:, :prefix], patches + self.positions], 1)
        return self.pixels(self.norm(self.blocks(everything)))[:, prefix:]


class Mae(Task):
    """Predicts the pixels of masked patches; a light decoder, which is thrown away, sees the mask tokens."""

    name = "mae"
    Settings = MaeSettings
    family = "mim"

    def build(self) -> None:
        settings: MaeSettings = self.settings
        self.design = settings.model.design(self.size)
        if self.design.has_bias or self.design.stages:
            raise FdlabError(
                f"MAE cannot train a model with position {self.design.position!r}.",
                "The encoder sees some patches only, and a relative bias needs the whole grid.",
                "Set mae.model.position=sincos, learned or none, or use the task masked.",
                code=USAGE,
            )
        if settings.width % settings.heads or settings.width % 4:
            raise FdlabError(
                f"A decoder of width {settings.width} and {settings.heads} heads cannot be built.",
                fix="Make mae.width a multiple of mae.heads and of 4.",
                code=USAGE,
            )
        encoder = build(self.design, seed=seed_for(self.seed, "mae"))
        with seeded(seed_for(self.seed, "decoder")):
            decoder = Decoder(self.design, settings)
        self.module = nn.ModuleDict({"encoder": encoder, "decoder": decoder})

    @property
    def flops(self) -> float:
        """The encoder's blocks see the visible patches alone, the decoder's all of them."""
        decoder: Decoder = self.module["decoder"]  # type: ignore[assignment]
        visible = decoder.patches - round(self.settings.ratio * decoder.patches)
        cost = cost_of(self.encoder, patches=visible)
        assert cost is not None
        seen, every = self.prefix_tokens + visible, self.prefix_tokens + decoder.patches
        blocks = [dense(block, every) + 4.0 * every**2 * self.settings.width for block in decoder.blocks]
        return cost.training() + 3 * (dense(decoder.embed, seen) + sum(blocks) + dense(decoder.pixels, every))

    def step(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.design is not None
        images = self.normalise(batch.images[0].to(self.device))
        pixels = patchify(images, self.design.patch_size, standardise=self.settings.per_patch)
        drawn = draw_mask(len(images), pixels.shape[1], self.settings.ratio)
        mask, places = sent(drawn, images.device), sent(visible_places(drawn, self.settings.ratio), images.device)
        predicted = self.module["decoder"](self.visible_tokens(images, places), places, self.prefix_tokens)
        return masked_pixel_loss(predicted, pixels, mask), {}

    def visible_tokens(self, images: Tensor, places: Tensor) -> Tensor:
        """(B, prefix + visible, C): tokens of normalised images of which only patches at ``places`` are seen."""
        prefix = self.prefix_tokens

        def leave_out(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            patches = output[:, prefix:].gather(1, places.unsqueeze(-1).expand(-1, -1, output.shape[-1]))
            return torch.cat([output[:, :prefix], patches], 1)

        # timm's place for leaving patches out: after the positions are added.
        hook = self.encoder.get_submodule("patch_drop").register_forward_hook(leave_out)
        try:
            return self.encoder.forward_features(images)  # type: ignore[operator]
        finally:
            hook.remove()
