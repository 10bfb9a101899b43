"""What every reading of attention needs: how images come, on which grid a call lies, what is said of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.encoders.layout import Layout
from fdlab.encoders.tap import AttentionCall
from fdlab.errors import FdlabError
from fdlab.measures.attention import uniform_distance

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


class SlicedImages(Protocol):
    """(n, 3, H, W) images of which one slice at a time is read."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Tensor: ...


class Advances(Protocol):
    """What progress is told to: ``fdlab.progress.Progress``."""

    def advance(self, units: int = 1, note: str = "") -> None: ...


def prefix_of(encoder: Encoder, call: AttentionCall, images: int, place: Layout) -> int:
    """Prefix tokens of a block's call; a class token may join after the blocks (CaiT).

    Raises:
        FdlabError: the call is not on the block's known grid.
    """
    prefix = call.shape[-1] - place.patches
    if call.shape[0] != images * place.windows or prefix not in (0, encoder.info.prefix_tokens):
        raise _other_grid(encoder, call, images, place)
    return prefix


def _other_grid(encoder: Encoder, call: AttentionCall, images: int, place: Layout) -> FdlabError:
    return FdlabError(
        f"The attention probe cannot measure this model ({encoder.info.family}).",
        f"Block {call.block + 1} attends within {call.shape[0] // images} x {call.shape[-1]} tokens an image,"
        f" expected {place.windows} x {place.patches}: windows, pooled tokens, or another input size.",
        "Measure a plain vision transformer, a Swin or a SwinV2 at its input size.",
    )


def heads_of(encoder: Encoder) -> list[int]:
    """Heads of every block."""
    info = encoder.info
    if encoder.anatomy.heads is not None:
        return list(encoder.anatomy.heads)
    if not info.stage_depths:
        return [info.heads] * info.depth
    return [heads for depth, heads in zip(info.stage_depths, info.stage_heads, strict=True) for _ in range(depth)]


def layout_facts(encoder: Encoder, grids: list[Layout]) -> dict[str, Any]:
    """What the record of a probe of attention says of its model's tokens; ``grids`` has one entry a block."""
    info = encoder.info
    size = info.image_size
    lines = [uniform_distance(layout.grid, layout.patch) for layout in grids]
    return {
        "heads": info.heads,
        "grid": list(grids[0].grid),
        "patch_size": info.patch_size,
        "image_size": size if isinstance(size, int) else list(size),
        "prefix_tokens": info.prefix_tokens,
        "uniform_distance_px": lines[0] if len(set(lines)) == 1 else None,  # stages have a line each
        "uniform_by_block_px": lines,
        "windows": [layout.windows for layout in grids],
    }


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
