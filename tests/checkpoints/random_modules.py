"""Stock timm modules of the caller's sizes with random weights, and their weights under other keys."""

from __future__ import annotations

import re
from functools import partial

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

EPS5 = partial(nn.LayerNorm, eps=1e-5)


def spread(module: nn.Module) -> nn.Module:
    """Every parameter random and large enough that a wrong map shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.named_parameters():
            size = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value.copy_(size + 0.2 * torch.randn(value.shape, generator=generator))
    return module.eval()


def renamed(module: nn.Module, *rules: tuple[str, str], prefix: str = "") -> dict:
    state = {}
    for key, value in module.state_dict().items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        state[prefix + key] = value.clone()
    return state


class Sizes:
    def __init__(self, width: int, heads: int, depth: int, patch: int, grid: int, hidden: int) -> None:
        self.width, self.heads, self.depth, self.patch, self.grid, self.hidden = (
            width,
            heads,
            depth,
            patch,
            grid,
            hidden,
        )
        self.common = {
            "img_size": patch * grid,
            "patch_size": patch,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": (hidden + 0.5) / width,
        }


def vit(s: Sizes, **more) -> nn.Module:
    return spread(VisionTransformer(**{**s.common, "num_classes": 0, "global_pool": "", "fc_norm": False, **more}))


def beit(s: Sizes, **more) -> nn.Module:
    shared = {"use_shared_rel_pos_bias": True, "num_classes": 0, "global_pool": ""}
    return spread(Beit(**{**s.common, "use_abs_pos_emb": False, "init_values": 0.1, **shared, **more}))


def eva(s: Sizes, **more) -> nn.Module:
    rope = {"use_rot_pos_emb": True, "ref_feat_shape": (s.grid, s.grid), "swiglu_mlp": True}
    return spread(Eva(**{**s.common, "num_classes": 0, "global_pool": "", "use_fc_norm": False, **rope, **more}))


def random_vit() -> dict:
    """The tensors of a plain ViT under timm's keys: 2 blocks, 2 heads, width 16, patch 4, 16 pixels."""
    return renamed(vit(Sizes(16, 2, 2, 4, 4, 32)))
