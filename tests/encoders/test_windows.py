"""Windows, shifts and hybrids: where each token of a map lies, found by redrawing; channel attention is found out."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.xcit import Xcit
from torch import nn

import fdlab
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.layout import Layout, layouts
from fdlab.errors import FdlabError

SMALL: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "num_classes": 0}


def built(make: Any, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return make(**options).eval()


@pytest.mark.parametrize("make", [SwinTransformer, SwinTransformerV2])
def test_windows_are_where_timm_has_them_shifted_or_not(make: Any) -> None:
    module = built(make, img_size=64, patch_size=4, window_size=4, **SMALL)
    known = Encoder.wrap(module)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted, maps = layouts(module, known.info, (64, 64)), known.attention(images, (0, 3))
    encoder = fdlab.wrap(module)
    assert encoder.info.attention == "complete"
    assert layouts(module, encoder.info, (64, 64)) == wanted
    assert encoder.anatomy.heads == (2, 2, 4, 4)
    assert all(torch.equal(encoder.attention(images, (block,))[block], maps[block]) for block in maps)


def test_grids_that_are_spread_over_the_image_have_wide_steps() -> None:
    tv = pytest.importorskip("torchvision.models.maxvit")
    module = built(
        tv.MaxVit, input_size=(64, 64), stem_channels=8, partition_size=4, block_channels=[16, 32],
        block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0, num_classes=3,
    )  # fmt: skip
    encoder = fdlab.wrap(module, image_size=64)
    assert encoder.info.attention == "complete"
    assert encoder.anatomy.layouts == (
        Layout((4, 4), (4, 4), 16),
        Layout((4, 4), (16, 16), 16),
        Layout((4, 4), (8, 8), 4),
        Layout((4, 4), (16, 16), 4),
    )
    assert "convolutions" in encoder.explain()
    assert len(fdlab.measure("attention", {"m": encoder}, "digits", images=4, metrics=["distance"])) > 0


@pytest.mark.parametrize("size", [32, 128])
def test_attention_between_channels_is_never_a_map_of_tokens(size: int) -> None:
    """At 128 pixels there are as many channels a head as patches: no shape gives it away."""
    module = built(Xcit, img_size=size, patch_size=16, embed_dim=64, num_heads=1, depth=2, num_classes=0)
    images = torch.randn(1, 3, size, size)
    with pytest.raises(FdlabError, match="cannot be read completely"):
        fdlab.wrap(module, image_size=size).attention(images)


class Channels(nn.Module):
    """A block that works on each token alone, through a map between its channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2)
        return x + ((y @ x).softmax(-1) @ y).transpose(1, 2)


class ChannelViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layers = nn.Conv2d(3, 16, 8, 8), nn.ModuleList([Channels() for _ in range(2)])
        self.norm = nn.LayerNorm(16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def test_a_channel_map_of_the_grids_own_size_is_told_by_its_axes() -> None:
    info = fdlab.wrap(built(ChannelViT), image_size=32).info  # 16 channels, 16 patches
    assert info.attention == "refused: layers.0 attends between channels (16 x 16), not between tokens"


def test_pooled_keys_and_convolutional_networks_say_why() -> None:
    pooled = fdlab.wrap(built(timm.create_model, model_name="pvt_v2_b0", num_classes=0), image_size=64)
    assert "keys are pooled" in pooled.info.attention
    plain = fdlab.wrap(built(timm.create_model, model_name="convnext_atto", num_classes=0), image_size=64)
    assert plain.info.attention == "none: no attention in it" and plain.info.depth == 12
    linear = fdlab.wrap(built(timm.create_model, model_name="efficientvit_b0", num_classes=0), image_size=64)
    assert "multiplies activations" in linear.info.attention
