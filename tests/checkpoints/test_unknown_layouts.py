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
