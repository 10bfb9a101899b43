"""Live modules of libraries: sizes, tokens and prefix as they are, attention equal to the module's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fdlab

COMPLETE = "complete"


def noise(n: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


TIMM: dict[str, tuple[dict[str, Any], str, int]] = {  # name: (arguments, attention, prefix tokens)
    "vit_tiny_patch16_224": ({"depth": 2}, COMPLETE, 1),
    "vit_small_patch14_reg4_dinov2": ({"depth": 2, "img_size": 56}, COMPLETE, 5),
    "vit_base_patch16_siglip_224": ({"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}, COMPLETE, 0),
    "vit_base_patch16_clip_224": ({"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}, COMPLETE, 1),
    "vit_medium_patch16_gap_240": ({"depth": 2}, COMPLETE, 0),
    "deit_tiny_distilled_patch16_224": ({"depth": 2}, COMPLETE, 2),
    "deit3_small_patch16_224": ({"depth": 2}, COMPLETE, 1),
    "beit_base_patch16_224": ({"depth": 2, "embed_dim": 48, "num_heads": 3}, COMPLETE, 1),
    "beitv2_base_patch16_224": ({"depth": 2, "embed_dim": 48, "num_heads": 3}, COMPLETE, 1),
    "eva02_tiny_patch14_224": ({"depth": 2}, COMPLETE, 1),
    "vit_small_patch16_dinov3": ({"depth": 2, "img_size": 64}, COMPLETE, 5),
    "vit_relpos_small_patch16_224": ({"depth": 2}, COMPLETE, 0),
    "naflexvit_base_patch16_gap": ({"depth": 2, "embed_dim": 48, "num_heads": 3}, COMPLETE, 4),
    "swin_tiny_patch4_window7_224": ({"depths": (1, 2), "num_heads": (2, 4), "embed_dim": 24}, COMPLETE, 0),
    "swinv2_tiny_window8_256": ({"depths": (1, 2), "num_heads": (2, 4), "embed_dim": 24}, COMPLETE, 0),
    "cait_xxs24_224": ({"depth": 2}, "refused: ", 1),
    "xcit_nano_12_p16_224": ({"depth": 2}, "refused: ", 1),
    "pvt_v2_b0": ({}, "refused: ", 0),
    "hiera_tiny_224": ({}, "refused: ", 0),
    "mvitv2_tiny": ({}, "refused: ", 0),
    "efficientvit_b0": ({}, "refused: ", 0),
    "maxvit_rmlp_pico_rw_256": ({}, COMPLETE, 0),
    "resnet10t": ({}, "none: ", 0),
    "convnext_atto": ({}, "none: ", 0),
    "efficientnet_b0": ({}, "none: ", 0),
    "mixer_s32_224": ({}, "none: ", 0),
}
TORCHVISION: dict[str, tuple[dict[str, Any], dict[str, Any], str, int]] = {
    "VisionTransformer": (
        {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 48},
        {}, COMPLETE, 1,
    ),
    "SwinTransformer": (
        {"patch_size": [4, 4], "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]},
        {"image_size": 64}, COMPLETE, 0,
    ),
    "swin_v2_t": ({}, {"image_size": 256}, COMPLETE, 0),
    "resnet18": ({}, {"image_size": 64}, "none: ", 0),
    "convnext_tiny": ({}, {"image_size": 64}, "none: ", 0),
    "efficientnet_b0": ({}, {"image_size": 64}, "none: ", 0),
    "regnet_y_400mf": ({}, {"image_size": 64}, "none: ", 0),
}  # fmt: skip


def described(module: nn.Module, attention: str, prefix: int, **given: Any) -> fdlab.Encoder:
    encoder = fdlab.wrap(module, **given)
    info = encoder.info
    size = (info.image_size,) * 2 if isinstance(info.image_size, int) else info.image_size
    images = noise(2, size)
    assert info.attention.startswith(attention), info.attention
    assert info.prefix_tokens == prefix
    tokens = encoder.tokens(images)
    assert tokens.shape == (2, prefix + math.prod(info.grid), info.width)
    if hasattr(module, "forward_features"):
        with torch.no_grad():
            own_tokens = module.eval().forward_features(images)  # type: ignore[operator]
        own_tokens = own_tokens if isinstance(own_tokens, Tensor) else own_tokens["patches"]
        same = own_tokens.flatten().sort().values - tokens.detach().flatten().sort().values
        assert same.abs().max() < 1e-5
    if attention == COMPLETE:
        replayed(module, encoder, images)
    return encoder


def replayed(module: nn.Module, encoder: fdlab.Encoder, images: Tensor) -> int:
    """Map @ values equals what the fused kernel gave, for every call that torch hands to it; how many there were."""
    from fdlab.encoders.tap import AttentionCall, tap

    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    original = torch.nn.functional.scaled_dot_product_attention
    kernel: list[tuple[Tensor, Tensor]] = []

    def watched(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        out = original(query, key, value, *args, **options)
        kernel.append((value, out))
        return out

    def on_call(call: AttentionCall) -> None:
        if kernel and kernel[-1][0].ndim == 4:
            pairs.append((call.maps(), *kernel.pop()))

    torch.nn.functional.scaled_dot_product_attention = watched
    try:
        with torch.no_grad(), encoder.reading(), tap(module, on_call, expected=encoder.anatomy.calls):
            encoder.anatomy.forward(module, images)
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    for found, value, out in pairs:
        assert (found @ value - out).abs().max() < 1e-5
    return len(pairs)


SLOW = {"swin_v2_t", "mvitv2_tiny", "hiera_tiny_224"}


def names(zoo: Any) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in zoo]


@pytest.mark.parametrize("name", names(TIMM))
def test_live_modules_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    options, attention, prefix = TIMM[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    described(module, attention, prefix)


@pytest.mark.parametrize("name", names(TORCHVISION))
def test_live_modules_of_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    options, given, attention, prefix = TORCHVISION[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(models, name)(**options)
    described(module, attention, prefix, **given)


@pytest.mark.parametrize("name", ["ViTModel", "Dinov2Model", "CLIPVisionModel"])
def test_live_modules_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = getattr(transformers, name.replace("Model", "Config"))(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=8
    )
    described(getattr(transformers, name)(config), COMPLETE, 1)


def test_live_modules_of_vit_pytorch() -> None:
    vit = pytest.importorskip("vit_pytorch", reason="vit-pytorch is not installed")
    module = vit.ViT(image_size=32, patch_size=8, num_classes=5, dim=24, depth=2, heads=3, mlp_dim=48)
    described(module, COMPLETE, 1)


def test_the_replay_sees_every_fused_call() -> None:
    """The check above would hold of nothing where it saw nothing."""
    timm = pytest.importorskip("timm")
    module = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0)
    assert replayed(module, fdlab.wrap(module), noise(1, (224, 224))) == 2
