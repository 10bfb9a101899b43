"""SwinV2-G's extra norms, which no timm class has: at the end of every N-th block, and inside some MLPs.

Facts from the official code (SwinTransformer/Feature-Distillation, models/swin_transformer_v2.py): ``enorm``
is applied to a block's output, ``mlp.norm`` between ``fc1`` and the activation (timm's own MLP norm comes after it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import Mlp
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from torch import Tensor, nn

Place = tuple[int, int]  # (stage, block)


class EndNormBlock(SwinTransformerV2Block):
    """A block whose output (B, H, W, C) is normalised once more."""

    enorm: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.enorm(super().forward(x))


class NormBeforeActMlp(Mlp):
    """fc1, norm, activation, fc2."""

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.norm(self.fc1(x))))))


class SwinTransformerV2G(SwinTransformerV2):
    """timm's ``SwinTransformerV2`` with norms at the end of some blocks and inside some MLPs.

    Args:
        end_norms: (stage, block) of the blocks with ``enorm``.
        mlp_norms: (stage, block) of the blocks with ``mlp.norm``.
    """

    def __init__(self, *, end_norms: Sequence[Place] = (), mlp_norms: Sequence[Place] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        norm, layers = kwargs.get("norm_layer", nn.LayerNorm), list[Any](self.layers)
        # timm's stage names its block class itself; a block that is there already only gets one method more.
        for stage, number in end_norms:
            block = layers[stage].blocks[number]
            block.enorm = norm(block.dim)
            block.__class__ = EndNormBlock
        for stage, number in mlp_norms:
            mlp = layers[stage].blocks[number].mlp
            mlp.norm = norm(mlp.fc1.out_features)
            mlp.__class__ = NormBeforeActMlp
