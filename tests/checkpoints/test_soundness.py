"""What cannot be right in a file is refused by name: weights that are not finite, impossible words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from random_modules import random_vit

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_that_are_not_finite_are_refused_with_the_tensors_name(tmp_path, value, prefix):
    weights = random_vit()
    weights["blocks.1.attn.qkv.weight"][3, 4] = value
    torch.save({f"{prefix}{key}": tensor for key, tensor in weights.items()}, tmp_path / "x.pth")
    with pytest.raises(FdlabError, match=r"blocks\.1\.attn\.qkv\.weight: 1 of its 768 values") as caught:
        open_model(tmp_path / "x.pth", heads=2)
    assert caught.value.code == 3


def test_a_tensor_that_is_left_out_may_be_anything(tmp_path):
    beside = {"criterion.weight": torch.full((3,), float("nan"))}
    torch.save({**{f"model.{k}": v for k, v in random_vit().items()}, **beside}, tmp_path / "x.pth")
    assert open_model(tmp_path / "x.pth", heads=2).info.left_over == 1


def test_a_file_of_this_program_is_checked_as_well(tmp_path):
    from fdlab.checkpoints.save import save_encoder

    torch.save(random_vit(), tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth", heads=2)
    with torch.no_grad():
        encoder.module.norm.weight[0] = float("nan")
    given = {"mean": encoder.info.mean, "std": encoder.info.std, "family": "dino", "seed": 0, "call": encoder.call}
    save_encoder(tmp_path / "own.safetensors", encoder.module, design=None, **given)
    with pytest.raises(FdlabError, match=r"norm\.weight"):
        open_model(tmp_path / "own.safetensors")


WORDS = {"model_type": "vit", "num_attention_heads": 2, "image_size": 16, "layer_norm_eps": 1e-12, "hidden_size": 16}


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("preprocessor_config.json", {"image_std": [0.5, 0, 0.5]}, "std"),
        ("preprocessor_config.json", {"image_std": [0.5, -0.5, 0.5]}, "std"),
        ("preprocessor_config.json", {"image_mean": [0.5, float("nan"), 0.5]}, "mean"),
        ("preprocessor_config.json", {"image_mean": 0.5}, "mean"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "mean"),
        ("config.json", {"num_attention_heads": 0}, "heads"),
        ("config.json", {"num_attention_heads": -2}, "heads"),
        ("config.json", {"num_attention_heads": 3}, "heads"),
        ("config.json", {"num_attention_heads": "2"}, "heads"),
        ("config.json", {"image_size": -16}, "image_size"),
        ("config.json", {"layer_norm_eps": 0}, "norm_eps"),
    ],
)
def test_words_that_cannot_be_right_are_refused(tmp_path, shared, file, change, named):
    words = {
        "config.json": dict(WORDS),
        "preprocessor_config.json": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
    }
    save_file(hf_names(random_vit()), tmp_path / "model.safetensors")
    for name, table in words.items():
        (tmp_path / name).write_text(json.dumps(table))
    assert open_model(tmp_path).info.heads == 2
    words[file] |= change
    for name, table in words.items():
        (tmp_path / name).write_text(json.dumps(table))
    with pytest.raises(FdlabError, match=f"cannot be right: .*{named}") as caught:
        open_model(tmp_path)
    assert caught.value.code == 3


def test_the_tensors_count_where_the_config_is_of_another_network(tmp_path):
    save_file(hf_names(random_vit()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**WORDS, "hidden_size": 768, "num_hidden_layers": 12}))
    with pytest.raises(FdlabError, match="heads is unknown"):  # its head count is the other network's
        open_model(tmp_path)
    info = open_model(tmp_path, heads=2).info
    assert (info.width, info.depth) == (16, 2)
    assert any("hidden_size 768 for 16" in text and "the tensors count" in text for text in info.assumed)


def hf_names(weights):
    """A plain ViT under Hugging Face's names."""
    table = {}
    rules = {
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "pos_embed": "embeddings.position_embeddings",
    }
    rules |= {"cls_token": "embeddings.cls_token", "blocks.": "encoder.layer.", ".norm1.": ".layernorm_before."}
    rules |= {".norm2.": ".layernorm_after.", ".mlp.fc1.": ".intermediate.dense.", ".mlp.fc2.": ".output.dense."}
    rules |= {".attn.proj.": ".attention.output.dense."}
    for key, value in weights.items():
        name = key
        for old, new in rules.items():
            name = name.replace(old, new)
        name = name if not name.startswith("norm.") else f"layernorm.{name[5:]}"
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                table[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = piece.contiguous()
        else:
            table[name] = value.contiguous()
    return table
