"""Networks of published files that no timm class is exactly: a timm class each, with one part changed."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.layers.attention import Attention
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import Attention as DecomposedAttention
from timm.models.vision_transformer_sam import VisionTransformerSAM, get_decomposed_rel_pos_bias
from torch import Tensor, nn
from torch.nn import functional


class BeitWithoutNorm(Beit):
    """BEiT as dense files hold it: the tokens are the last block's output."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.Identity()


class SwinTransformerWithoutNorm(SwinTransformer):
    """Swin whose file holds no final norm."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.Identity()


class SwinTransformerV2WithoutNorm(SwinTransformerV2):
    """Swin V2 whose file holds no final norm."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm = nn.Identity()


class OneHeadDistilled(VisionTransformerDistilled):
    """DeiT's two prefix tokens with one classifier, over the class token."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head_dist = nn.Identity()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        first = self.head_drop(x[:, 0])
        return first if pre_logits else self.head(first)


class FourAxesAttention(DecomposedAttention):
    """SAM's attention with a (B, heads, N, width) axis each, as its maps are read; the same function."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C), B times the windows -> the same shape."""
        count, rows, columns, width = x.shape
        tokens = rows * columns
        qkv = self.qkv(x.reshape(count, tokens, width)).view(count, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = None
        if self.use_rel_pos:  # its rows are those of the unscaled queries
            sides = (rows, columns)
            bias = get_decomposed_rel_pos_bias(query.flatten(0, 1), self.rel_pos_h, self.rel_pos_w, sides, sides)
            bias = bias.view(count, self.num_heads, tokens, tokens)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(count, rows, columns, width))


class SamTrunk(VisionTransformerSAM):
    """The blocks of SAM's and ViTDet's encoder; the neck is left out, so tokens are the last block's output."""

    def __init__(self, **kwargs: Any) -> None:
        norm = {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}  # as their builders make it; timm's class has 1e-5
        super().__init__(**{**norm, **kwargs, "num_classes": 0, "neck_chans": 1})
        for part in ("neck", "head"):
            setattr(self, part, nn.Identity())
        self.num_features = self.embed_dim
        for block in self.blocks:
            block.attn.__class__ = FourAxesAttention


class NormedPatches(PatchEmbed):
    """vit-pytorch's patches: norm over the pixels (row, column, channel), a linear layer, norm over the channels."""

    def __init__(self, patch_size: Any = 16, in_chans: int = 3, embed_dim: int = 768, eps: float = 1e-5, **kwargs: Any):
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        pixels = in_chans * self.patch_size[0] * self.patch_size[1]
        self.pixel_norm, self.norm = nn.LayerNorm(pixels, eps=eps), nn.LayerNorm(embed_dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, patches, width)."""
        height, width = self.patch_size
        batch, channels = x.shape[:2]
        cut = x.reshape(batch, channels, x.shape[2] // height, height, x.shape[3] // width, width)
        pixels = self.pixel_norm(cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, height * width * channels))
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # a convolution's form of the linear layer
        return self.norm(torch.nn.functional.linear(pixels, weight, self.proj.bias))


class VitPytorch(VisionTransformer):
    """vit-pytorch's ViT: norms around the patch embedding, heads of a width of their own, no bias for q, k, v."""

    def __init__(self, *, head_width: int, patch_norms: bool = True, **kwargs: Any) -> None:
        class OwnWidth(Attention):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **{**more, "attn_head_dim": head_width})

        if patch_norms:
            kwargs["embed_layer"] = NormedPatches
        super().__init__(**{**kwargs, "attn_layer": OwnWidth})
