"""Small models of every kind that the explorer stores in a way of its own."""

from __future__ import annotations

from typing import Any

import timm
import torch

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.student import Design, build


def sharpened(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random weights whose heads look at something: queries and keys are scaled up."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, part in module.named_modules():
            if name.endswith("qkv"):
                part.weight.normal_(0, 0.25)
            if name.endswith(("relative_position_bias_table", "rel_pos_bias")):
                for table in part.parameters(recurse=False):
                    table.normal_(0, 1.0)
    return module.eval()


def plain() -> Encoder:
    module = timm.models.vision_transformer.VisionTransformer(
        img_size=64, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0, reg_tokens=2
    )
    return Encoder.wrap(sharpened(module, 1))


def biased() -> Encoder:
    """The paper's student: a learnt bias that all blocks share."""
    return Encoder.wrap(sharpened(build(Design(64, 8, 32, 2, 2, class_token=True), seed=2), 2))


def windowed() -> Encoder:
    options: dict[str, Any] = {"img_size": 112, "patch_size": 4, "window_size": 7, "embed_dim": 24, "num_classes": 0}
    module = timm.models.swin_transformer.SwinTransformer(depths=(2, 2), num_heads=(2, 4), **options)
    return Encoder.wrap(sharpened(module, 3))


MODELS = {"plain": plain, "paper's student": biased, "windows": windowed}
