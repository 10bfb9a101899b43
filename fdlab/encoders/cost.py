"""What one image costs an open network: FLOPs by formula from the sizes of its own layers.

Counted are matrix products (2 x multiply-adds): linear layers, both products of attention, the patch embedding, a
hierarchical model's merging of patches. Norms, softmax, biases and SwinV2's bias network (once a batch, not an image)
are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.encoder import blocks_of, pair


@dataclass(frozen=True)
class Cost:
    """FLOPs of one image's forward pass: of the patch embedding, and of everything behind it."""

    patches: float
    rest: float

    @property
    def forward(self) -> float:
        return self.patches + self.rest

    def training(self, *, frozen_patches: bool = False) -> float:
        """Forward and backward: each product has two in the backward pass, the first layer only its weights' one."""
        return (1 if frozen_patches else 2) * self.patches + 3 * self.rest


def cost_of(module: nn.Module, *, patches: int | None = None, prefix: int | None = None) -> Cost | None:
    """The cost of a timm transformer on an image of its size; None where its layers are not known by timm's names.

    Args:
        patches: how many patches the blocks see, where some are left out (MAE); None: all.
        prefix: tokens before them; None: the module's own.
    """
    embed: Any = getattr(module, "patch_embed", None)
    blocks = blocks_of(module)
    if (
        anatomy_of(module).order_of_parts is not None
        or embed is None
        or not blocks
        or not all(hasattr(getattr(b, "attn", None), "proj") for b in blocks)
    ):
        return None
    whole = math.prod(pair(embed.grid_size))
    first = 2 * whole * sum(conv.weight.numel() for conv in embed.modules() if isinstance(conv, nn.Conv2d))
    if hasattr(module, "layers"):
        return Cost(first, sum(_windowed(block) for block in blocks) + _merging(module))
    own = int(getattr(module, "num_prefix_tokens", 0)) if prefix is None else prefix
    tokens = own + (whole if patches is None else patches)
    return Cost(first, sum(tokens * _linear(block) + _attention(block, tokens, tokens) for block in blocks))


def dense(module: nn.Module, rows: int = 1) -> float:
    """FLOPs of the linear layers below ``module`` on ``rows`` vectors, forward."""
    return rows * _linear(module)


def _linear(module: nn.Module) -> float:
    """FLOPs a token of a part's linear layers. The networks that make a bias see no tokens."""
    return 2.0 * sum(
        part.weight.numel()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and not any(sign in name for sign in ("cpb_mlp", "rel_pos"))
    )


def _attention(block: Any, queries: int, keys: int) -> float:
    """Scores and weighted sum: 2 x queries x keys x width each."""
    return 4.0 * queries * keys * block.attn.proj.in_features


def _windowed(block: Any) -> float:
    """A block of a Swin: its attention sees the grid filled up to whole windows, its MLP the grid."""
    height, width = pair(block.input_resolution)
    high, wide = pair(block.window_size)
    filled = math.ceil(height / high) * high * math.ceil(width / wide) * wide
    return filled * _linear(block.attn) + _attention(block, filled, high * wide) + height * width * _linear(block.mlp)


def _merging(module: Any) -> float:
    """Between two stages, on the coarser grid."""
    found = 0.0
    for stage in module.layers:
        if merge := _linear(getattr(stage, "downsample", nn.Identity())):
            found += math.prod(pair(stage.blocks[0].input_resolution)) * merge
    return found
