"""FLOPs by formula against torch's count of the same network's own matrix products, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fdlab.encoders.cost import cost_of


def unfused(module: nn.Module) -> nn.Module:
    """A fused attention would be counted as nothing on a CPU."""
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return module


NETWORKS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
    "vit_relpos_small_patch16_224": {"img_size": 64, "depth": 2},
    "beit_base_patch16_224": {"img_size": 64, "depth": 2},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2},
    "vit_small_patch16_dinov3": {"img_size": 64, "depth": 2},
    "deit3_small_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 2, 1), "img_size": 224},
    "swin_s3_tiny_224": {"depths": (1, 1, 2, 1), "img_size": 224},  # windows that do not fill the grid
    "swinv2_tiny_window8_256": {"depths": (1, 1, 2, 1), "img_size": 256},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formula_is_the_count(name: str) -> None:
    module = unfused(timm.create_model(name, num_classes=0, drop_path_rate=0.0, **NETWORKS[name]))
    cost = cost_of(module)
    assert cost is not None
    images = torch.zeros(4, 3, *module.patch_embed.img_size)  # type: ignore[union-attr, misc]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.forward_features(images)  # type: ignore[operator]
    assert 4 * cost.forward == pytest.approx(counter.get_total_flops(), rel=0.01)
    with FlopCounterMode(display=False) as counter:
        module.forward_features(images).sum().backward()  # type: ignore[operator]
    assert 4 * cost.training() == pytest.approx(counter.get_total_flops(), rel=0.01)
    if hasattr(module, "layers"):  # its first product then needs no gradient of its input either
        return
    module.patch_embed.requires_grad_(False)  # type: ignore[union-attr]
    with FlopCounterMode(display=False) as counter:
        module.forward_features(images).sum().backward()  # type: ignore[operator]
    assert 4 * cost.training(frozen_patches=True) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("side", "patch", "depth", "width", "giga"),
    [
        (224, 16, 12, 768, 35.13),  # B/16: timm's 17.58 GMAC
        (224, 14, 24, 1024, 162.0),
        (224, 16, 12, 384, 9.20),
        (32, 4, 12, 192, 0.730),
        (32, 4, 12, 384, 2.84),
    ],
)
def test_known_answers(side: int, patch: int, depth: int, width: int, giga: float) -> None:
    """``L N D^2 (8 + 4 r) + 4 L N^2 D + 2 (N - 1) D 3 P^2`` with r = 4."""
    with torch.device("meta"):
        module = VisionTransformer(side, patch, embed_dim=width, depth=depth, num_heads=width // 64, num_classes=0)
    cost, tokens = cost_of(module), (side // patch) ** 2 + 1
    assert cost is not None
    assert cost.forward / 1e9 == pytest.approx(giga, rel=3e-3)
    assert cost.patches == 2 * (tokens - 1) * width * 3 * patch**2
    assert cost.rest == depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def test_what_is_no_such_transformer_has_no_cost() -> None:
    assert cost_of(nn.Sequential(nn.Linear(2, 2))) is None
    assert cost_of(timm.create_model("resnet18", num_classes=0)) is None
