"""What cannot be opened is named: the nearest family with the keys that differ, or what the file is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from random_modules import random_vit

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError


def refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(FdlabError) as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3
    return caught.value


def test_the_nearest_family_and_the_first_keys_that_differ_are_said(tmp_path):
    weights = {key.replace(".mlp.fc1.", ".feed.up."): value for key, value in random_vit().items()}
    error = refused(tmp_path, {"whatever": {f"net.{key}": value for key, value in weights.items()}})
    assert "Nearest is" in error.why and "under whatever.net" in error.why and "Tried" not in error.why
    assert "not known: blocks.0.feed.up.bias, blocks.0.feed.up.weight, blocks.1.feed.up.bias ..." in error.why


def test_without_a_patch_embedding_the_first_keys_are_said(tmp_path):
    error = refused(tmp_path, {"state_dict": {"layer.weight": torch.ones(3)}})
    assert "Nearest" not in error.why and "First keys: state_dict: layer.weight" in error.why


@pytest.mark.parametrize(
    ("key", "what", "way"),
    [
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", "LoRA adapter", "merge_and_unload"),
        ("model.blocks.0.attn.qkv.lora_B.default.weight", "LoRA adapter", "merge_and_unload"),
        ("blocks.0.attn.qkv.SCB", "quantised", "before quantisation"),
        ("blocks.0.mlp.fc1._packed_params._packed_params", "quantised", "before quantisation"),
        ("model.blocks.0.mlp.fc1.qweight", "quantised", "before quantisation"),
        ("encoder.layers.0.ls1", "InternViT", "timm:vit_intern"),
        ("blocks.0.attn.temperature", "XCiT", "timm:xcit"),
        ("module.blocks_token_only.0.norm1.weight", "CaiT", "timm:cait"),
        ("vision_model.encoder.layers.0.self_attn.qkv.weight", "BLIP", "CLIP"),
        ("stages.0.blocks.0.conv_dw.weight", "ConvNeXt", "timm:NAME"),
    ],
)
def test_what_is_no_layout_for_a_reader_is_named_with_a_way_out(tmp_path, key, what, way):
    error = refused(tmp_path, {**random_vit(), key: torch.ones(3)})
    assert what in error.what and way in error.fix and key.removeprefix("module.") in error.why


def test_an_xcit_is_not_called_a_convolutional_stem(tmp_path):
    error = refused(
        tmp_path, {"patch_embed.proj.0.0.weight": torch.ones(3), "blocks.0.attn.temperature": torch.ones(3)}
    )
    assert "XCiT" in error.what


def test_weights_in_eight_bits_and_of_video_are_named(tmp_path):
    weights = random_vit()
    key = "blocks.0.mlp.fc1.weight"
    assert "quantised" in refused(tmp_path, {**weights, key: weights[key].to(torch.float8_e4m3fn)}).what
    moving = weights["patch_embed.proj.weight"].unsqueeze(2)
    assert "video" in refused(tmp_path, {**weights, "patch_embed.proj.weight": moving}).what


def test_a_network_quantised_by_torch_is_named(tmp_path):
    layer = torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
    assert "quantised" in refused(tmp_path, {**random_vit(), "head.weight": layer}).what


def built(tmp_path, name, **changes):
    import timm

    module = timm.create_model(name, num_classes=0, depth=1, **changes).eval()
    with torch.no_grad():
        for value in module.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    torch.save(module.state_dict(), tmp_path / "x.pth")
    return module


def test_rotary_positions_that_are_in_no_tensor_are_not_left_out(tmp_path):
    """timm's Perception Encoder has CLIP's keys but for the final norm: read as CLIP, its tokens are 2 % off."""
    built(tmp_path, "vit_pe_spatial_tiny_patch16_512", img_size=32)
    with pytest.raises(FdlabError, match="Perception Encoder") as caught:
        open_model(tmp_path / "x.pth", heads=3)
    assert caught.value.code == 3


def test_blocks_in_a_post_norm_order_are_said(tmp_path):
    built(tmp_path, "vit_base_patch16_rpn_224", img_size=32, embed_dim=192, num_heads=3)
    assert any("post-norm" in sentence for sentence in open_model(tmp_path / "x.pth").info.assumed)
    torch.save(random_vit(), tmp_path / "x.pth")
    assert not any("post-norm" in sentence for sentence in open_model(tmp_path / "x.pth", heads=2).info.assumed)


def test_attention_pooling_is_left_out_where_there_is_no_class_token(tmp_path):
    module = built(tmp_path, "vit_base_patch16_siglip_224", img_size=32, embed_dim=384, num_heads=6)
    encoder, images = open_model(tmp_path / "x.pth"), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(encoder.tokens(images), module.forward_features(images), atol=1e-5)
    assert encoder.info.mean == (0.5, 0.5, 0.5) and encoder.info.left_over > 5


def test_the_nearest_family_is_one_whose_keys_were_all_compared(tmp_path):
    built(tmp_path, "vit_small_patch16_18x2_224", img_size=32, embed_dim=192, num_heads=3)
    with pytest.raises(FdlabError) as caught:
        open_model(tmp_path / "x.pth")
    assert "Nearest is timm_vit" in caught.value.why and "blocks.0.attns.0" in caught.value.why
