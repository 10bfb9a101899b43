"""What a student predicts of a teacher: which tokens, of which block, under which norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model
from fdlab.data.images import ImageSource
from fdlab.encoders.anatomy import part_of, picked
from fdlab.encoders.channels import check_colour
from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.student import Design
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import whiten
from fdlab.tasks.alignment import aligned, describe
from fdlab.tasks.base import TaskSettings
from fdlab.tasks.whitening import Statistics

FIT_IMAGES, FIT_BATCH = 512, 64


class TargetSettings(TaskSettings):
    """One teacher, and what of it is the target. The default is the paper's."""

    teacher: str = Field("", description="SOURCE of the teacher: a file, a run folder, timm:NAME, ...")
    weight: float = Field(1.0, gt=0, description="share of this teacher's loss, where there are several")
    target: Literal["tokens", "patches", "class", "mean", "logits"] = Field(
        "tokens", description="all tokens (the feature map), patch tokens, class token, mean patch token, logits"
    )
    block: int = Field(-1, description="block whose output is the target; -1: the last")
    norm: Literal["none", "own", "own+whiten", "whiten", "standardise"] = Field(
        "own+whiten", description="the teacher's own final norm, whitening, both; standardise: over the data"
    )
    whitening: Literal["layernorm", "standardise", "pca"] = Field(
        "layernorm", description="of each token; of each channel over the data; decorrelation over the data"
    )


class Target:
    """A frozen teacher and its target for any batch of images.

    Args:
        settings: the settings.
        size: pixels of the views. seed, device: of the teacher.
        low: the teacher's weights are held, and its forward pass made, in bfloat16, without autocast.
    """

    def __init__(self, settings: TargetSettings, *, size: int, seed: int, device: str, low: bool = False) -> None:
        self.settings, self.size = settings, size
        # The teacher is no part of the trained module: it is neither trained, put in training mode, nor saved.
        self.encoder = check_colour(open_model(settings.teacher, device=device, seed=seed))
        self.encoder.module.requires_grad_(False)
        if low:
            self.encoder.module.to(torch.bfloat16)
        self.info = self.encoder.info
        self.grid: tuple[int, int] = self.info.grid
        self.class_token = False
        self.statistics: Statistics | None = None
        self._check()

    def _check(self) -> None:
        settings, info = self.settings, self.info
        faults = [
            fault
            for wrong, fault in (
                (settings.target == "class" and not info.prefix_tokens, "it has no class token to distil"),
                (settings.target == "logits" and not info.classes, "it holds no classifier, so no logits"),
                (settings.target == "logits" and settings.block != -1, "logits come after the last block (block -1)"),
                (
                    settings.target == "logits" and "own" in settings.norm,
                    "logits are behind its norm (norm none or whiten)",
                ),
                (
                    not -info.depth <= settings.block < info.depth,
                    f"it has {info.depth} blocks and no block {settings.block}",
                ),
            )
            if wrong
        ]
        if faults:
            raise FdlabError(
                f"The teacher {settings.teacher} cannot give this target.", "; ".join(faults) + ".", "", code=USAGE
            )

    def fit_student(self, design: Design) -> list[str]:
        """Takes over the student's grid and class token; returns sentences on what had to be changed for that."""
        self.grid, self.class_token = design.grid, design.class_token
        notes = describe(self.info, self.grid, self.class_token, self.size) if self.spatial else []
        if self.settings.block % self.info.depth != self.info.depth - 1:
            notes.append(f"The target is the output of the teacher's block {self.settings.block % self.info.depth}.")
        if self.settings.target == "class" and not design.class_token:
            notes.append("The student has no class token: its mean patch token predicts the teacher's.")
        return notes

    @property
    def spatial(self) -> bool:
        """Whether the target is a map."""
        return self.settings.target in ("tokens", "patches")

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        if not self.spatial:
            return 1
        both = self.class_token and self.info.prefix_tokens > 0 and self.settings.target == "tokens"
        return self.grid[0] * self.grid[1] + both

    @property
    def width(self) -> int:
        """Channels of the target."""
        if self.settings.target == "logits":
            return self.info.classes
        if self.settings.block in (-1, self.info.depth - 1):
            return self.info.width
        with torch.no_grad():
            side = self.info.image_size
            blank = torch.zeros(1, 3, *((side, side) if isinstance(side, int) else side), device=self.encoder.device)
            return self._features(blank)[0].shape[-1]

    def fit_statistics(self, images: ImageSource) -> None:
        """Fits the statistics of the target to the first ``FIT_IMAGES`` training images, where the norm needs them."""
        settings = self.settings
        if settings.norm in ("none", "own") or (settings.norm != "standardise" and settings.whitening == "layernorm"):
            return
        self.statistics = Statistics(self.width, pca=settings.norm != "standardise" and settings.whitening == "pca")
        self.statistics.to(self.encoder.device)

        def parts() -> Iterator[Tensor]:
            count = min(FIT_IMAGES, FIT_IMAGES if images.endless else len(images))
            for start in range(0, count, FIT_BATCH):
                raw, _ = images.stack(range(start, min(start + FIT_BATCH, count)), self.size)
                if len(raw):
                    yield self.raw(raw)

        self.statistics.fit(parts())

    def raw(self, images: Tensor) -> Tensor:
        """The target of raw ``images`` before whitening, float32: (B, N, C) on the student's grid, or (B, 1, C)."""
        images = images.to(self.encoder.device)
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
            target = self._tokens(images).float()
        return target.clone()  # an ordinary tensor again, which the loss may keep for its gradient

    def _tokens(self, images: Tensor) -> Tensor:
        side = (self.info.image_size,) * 2 if isinstance(self.info.image_size, int) else tuple(self.info.image_size)
        if images.shape[-2:] != torch.Size(side):
            images = F.interpolate(images, size=side, mode="bilinear", antialias=True)
        images = self.encoder.normalise(images)
        if self.settings.target == "logits":
            return self.encoder.logits(images).unsqueeze(1)
        tokens, grid = self._features(images)
        prefix = self.info.prefix_tokens
        if self.settings.target == "class":
            return tokens[:, :1]
        if self.settings.target == "mean":
            return tokens[:, prefix:].float().mean(1, keepdim=True)
        return aligned(tokens.float(), grid, prefix, self.grid, self.class_token and self.settings.target == "tokens")[
            0
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """The target of raw images under the norm, (B, N, C) float32."""
        tokens = self.raw(images)
        if self.statistics is not None:
            return self.statistics(tokens)
        return whiten(tokens) if "whiten" in self.settings.norm else tokens.float()

    def _features(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, N, C) tokens of the block, after the teacher's final norm where it is wanted, and their grid."""
        normed = "own" in self.settings.norm
        if self.settings.block in (-1, self.info.depth - 1):
            return self.encoder.tokens(images, norm=normed), self.info.grid
        module, seen = self.encoder.module, []
        block = blocks_of(module)[self.settings.block]
        handle = block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            self.encoder.tokens(images)
        finally:
            handle.remove()
        tokens, grid = self.encoder.anatomy.block_tokens(picked(seen[-1]), module)
        grid = grid or self.info.grid
        norm = part_of(module, self.encoder.anatomy.norm)
        if normed and isinstance(norm, nn.LayerNorm) and norm.normalized_shape[0] == tokens.shape[-1]:
            tokens = norm(tokens)
        return tokens, grid

    def predictors(self, student: Tensor, prefix: int, count: int) -> Tensor:
        """The student's tokens (B, N, C) that stand for the ``count`` tokens of the target."""
        if self.spatial:
            # A class token that only the student has is trained through attention alone.
            return student[:, student.shape[1] - count :]
        if self.settings.target == "class" and prefix:
            return student[:, :1]
        return student[:, prefix:].mean(1, keepdim=True)
