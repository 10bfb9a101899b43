"""The patch tokens of any model for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.encoders.encoder import Encoder


def patch_tokens(encoder: Encoder, images: Tensor, batch: int = 128) -> Tensor:
    """(B, N, C) patch tokens after the final norm, for raw images in [0, 1]; each model at its own size."""
    side = encoder.info.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    parts = []
    with torch.no_grad():
        for part in images.split(batch):
            if part.shape[-2:] != torch.Size(size):
                part = F.interpolate(part, size=size, mode="bilinear", antialias=True)
            tokens = encoder.tokens(encoder.normalise(part.to(encoder.device)))
            parts.append(tokens[:, encoder.info.prefix_tokens :].float().cpu())
    return torch.cat(parts)
