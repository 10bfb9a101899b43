"""An open model: its description, its images and the order of its tokens."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.reading import patch_tokens


@pytest.fixture
def encoder() -> Encoder:
    module = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0, reg_tokens=2
    )
    return Encoder.wrap(module, family="mim", source="here.pth", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))


def test_the_description_says_family_sizes_and_source(encoder: Encoder) -> None:
    assert encoder.info.kind == "mim"  # a task's family is a kind
    for word in (
        "mim",
        "2 blocks",
        "2 heads",
        "width 16",
        "patch 4",
        "8x8 pixels",
        "here.pth",
        encoder.info.sha256[:12],
    ):
        assert word in repr(encoder)


def test_images_are_normalised_channel_by_channel(encoder: Encoder) -> None:
    values = encoder.normalise(torch.full((1, 3, 8, 8), 0.6))[0, :, 0, 0]
    torch.testing.assert_close(values, torch.tensor([1.0, 1.6, 0.15]))


def test_patch_tokens_come_behind_the_prefix(encoder: Encoder) -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = encoder.tokens(encoder.normalise(images))
    assert tokens.shape == (2, 3 + 4, 16)
    torch.testing.assert_close(patch_tokens(encoder, images), tokens[:, 3:])
