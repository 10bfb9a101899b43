"""The formula against published counts, and against a count of this network's own matrix products."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from fdlab.measures.flops import training, vit_forward


@pytest.mark.parametrize(
    ("depth", "width", "patches", "patch", "giga"),
    [
        (12, 768, 196, 16, 35.13),  # B/16 at 224: timm's 17.58 GMAC
        (24, 1024, 256, 14, 162.0),
        (12, 384, 196, 16, 9.20),
        (12, 192, 64, 4, 0.730),
        (12, 384, 64, 4, 2.84),
    ],
)
def test_known_answers(depth: int, width: int, patches: int, patch: int, giga: float) -> None:
    found = vit_forward(depth=depth, width=width, patches=patches, prefix=1, patch_size=patch)
    assert found / 1e9 == pytest.approx(giga, rel=3e-3)
    assert training(found) == 3 * found


def test_equals_a_count_of_the_matrix_products() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2, img_size=64)
    for block in model.blocks:
        block.attn.fused_attn = False  # a fused kernel would be counted as nothing
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() == vit_forward(depth=2, width=192, patches=16, prefix=1, patch_size=16)
