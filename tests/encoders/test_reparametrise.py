"""The balanced form keeps the function and is one form for everything that scales can reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fdlab.encoders.encoder import Encoder, blocks_of
from fdlab.encoders.reparametrise import attention_parts, balanced, norm_pairs, scale_heads

SMALL: dict[str, Any] = {
    "img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0,
}  # fmt: skip
KINDS = {
    "vit": lambda: VisionTransformer(**SMALL),
    "no bias": lambda: VisionTransformer(**SMALL, qkv_bias=False),
    "beit": lambda: Beit(**SMALL, use_shared_rel_pos_bias=True, init_values=0.1),
}


def encoder(kind: str) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = KINDS[kind]().double()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return Encoder.wrap(module, family="small")


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_kept(kind: str) -> None:
    model = encoder(kind)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    other, said = balanced(model)
    with torch.no_grad():
        torch.testing.assert_close(other.tokens(images), model.tokens(images), rtol=1e-9, atol=1e-9)
    assert said == "4 LayerNorms folded, 4 heads balanced"
    assert other.info.sha256 != model.info.sha256


def test_heads_and_norms_are_balanced() -> None:
    other, _ = balanced(encoder("vit"))
    for block in blocks_of(other.module):
        parts = attention_parts(block.attn)  # type: ignore[arg-type]
        assert parts is not None
        query = (parts.query**2).sum((1, 2)) + (parts.query_bias**2).sum(1)  # type: ignore[operator]
        key = (parts.key**2).sum((1, 2)) + (parts.key_bias**2).sum(1)  # type: ignore[operator]
        torch.testing.assert_close(query, key)
        for norm, _layer in norm_pairs(block):
            assert (norm.weight == 1).all()
            assert (norm.bias == 0).all()


def test_every_scaled_model_has_one_balanced_form() -> None:
    model, moved = encoder("vit"), encoder("vit")
    with torch.no_grad():
        for block in blocks_of(moved.module):
            scale_heads(attention_parts(block.attn), query=4.0, value=0.25)  # type: ignore[arg-type]
            for norm, layer in norm_pairs(block):
                factor = torch.rand(16, dtype=torch.float64) + 0.5
                norm.weight.mul_(factor)
                norm.bias.mul_(factor)
                layer.weight.div_(factor)
    first, second = balanced(model)[0].module.state_dict(), balanced(moved)[0].module.state_dict()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-9, atol=1e-9, msg=name)


def test_norms_inside_the_heads_are_left_alone() -> None:
    module = VisionTransformer(**SMALL, qk_norm=True)
    assert attention_parts(module.blocks[0].attn) is None
    assert balanced(Encoder.wrap(module))[1] == "4 LayerNorms folded, 0 heads balanced"
