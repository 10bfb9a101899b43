"""torchvision's ViTs give torchvision's own tokens, maps and logits, however its files are written."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig, interpolate_embeddings

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from random_modules import spread

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError

WIDTH, HEADS, SIDE, PATCH = 48, 3, 20, 4


def theirs(*, width=WIDTH, heads=HEADS, depth=2, **more):
    return spread(VisionTransformer(SIDE, PATCH, depth, heads, width, 91, **{"num_classes": 7, **more}))


def tokens_of(module, images):
    """The encoder's output, as ``VisionTransformer.forward`` has it before it takes the class token."""
    patches = module._process_input(images)
    return module.encoder(torch.cat([module.class_token.expand(len(images), -1, -1), patches], 1))


def first_map(module, images):
    patches = module._process_input(images)
    table = module.encoder.pos_embedding
    tokens = torch.cat([module.class_token.expand(len(images), -1, -1), patches], 1) + table
    block = module.encoder.layers[0]
    inputs = block.ln_1(tokens)
    return block.self_attention(inputs, inputs, inputs, need_weights=True, average_attn_weights=False)[1]


def images(side=SIDE):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def relative(got, expected):
    return float((got - expected).detach().abs().max() / expected.detach().abs().max())


def old_names(state):
    """The MLP's keys of before torchvision 0.14, which its published files still have."""
    rules = ((r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2."))
    for pattern, new in rules:
        state = {re.sub(pattern, new, key): value for key, value in state.items()}
    return state


def training(state):
    args = argparse.Namespace(model="vit_b_16", epochs=300)
    ema = {"n_averaged": torch.tensor(3), **{f"module.{key}": value + 1 for key, value in state.items()}}
    return {"model": state, "optimizer": {}, "lr_scheduler": {}, "epoch": 1, "args": args, "model_ema": ema}


@pytest.mark.parametrize("wrap", [dict, old_names, training], ids=lambda wrap: wrap.__name__)
def test_tokens_maps_and_logits_are_torchvisions(wrap, tmp_path):
    module = theirs()
    torch.save(wrap(module.state_dict()), tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth", heads=HEADS)
    with torch.no_grad():
        assert relative(encoder.tokens(images()), tokens_of(module, images())) < 1e-5
        assert relative(encoder.attention(images(), blocks=(0,))[0], first_map(module, images())) < 5e-6
        assert relative(encoder.logits(images()), module(images())) < 1e-5
    info = encoder.info
    assert (info.family, info.norm_eps, info.interpolation) == ("torchvision", 1e-6, "bilinear")
    assert (info.mean, info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (info.image_size, info.prefix_tokens, info.classes) == (SIDE, 1, 7)
    assert any("IMAGENET1K_V1" in sentence for sentence in info.assumed)


def test_the_averaged_network_of_a_training_file_is_the_other_one(tmp_path):
    torch.save(training(theirs().state_dict()), tmp_path / "x.pth")
    plain = open_model(tmp_path / "x.pth", heads=HEADS)
    averaged = open_model(tmp_path / "x.pth", encoder="ema", heads=HEADS)
    assert plain.info.taken == "model" and plain.info.others == ("ema",)
    moved = averaged.module.state_dict()["norm.weight"] - plain.module.state_dict()["norm.weight"]
    assert torch.allclose(moved, torch.ones(WIDTH))


def test_another_image_size_is_torchvisions_own_resizing(tmp_path):
    state = theirs().state_dict()
    torch.save(state, tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth", heads=HEADS, image_size=32)
    larger = spread(VisionTransformer(32, PATCH, 2, HEADS, WIDTH, 91, num_classes=7))
    larger.load_state_dict(interpolate_embeddings(32, PATCH, dict(state)))
    with torch.no_grad():
        assert relative(encoder.tokens(images(32)), tokens_of(larger, images(32))) < 1e-5
    assert any("5x5 -> 8x8" in said and "corners aligned" in said for said in encoder.info.assumed)


@pytest.mark.parametrize(
    ("head", "classes"),
    [
        (torch.nn.Linear(WIDTH, 4), 4),  # model.heads = nn.Linear(...)
        (torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(WIDTH, 3)), 3),
        (torch.nn.Identity(), 0),
        (torch.nn.Sequential(torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 3)), 0),  # no place for it: left out
    ],
    ids=["linear", "dropout", "none", "deep"],
)
def test_a_fine_tuned_head(head, classes, tmp_path):
    module = theirs()
    module.heads = head.eval()
    torch.save({"state_dict": module.state_dict()}, tmp_path / "x.pth")
    encoder = open_model(tmp_path / "x.pth", heads=HEADS)
    with torch.no_grad():
        assert relative(encoder.tokens(images()), tokens_of(module, images())) < 1e-5
        if classes:
            assert relative(encoder.logits(images()), module(images())) < 1e-5
    assert encoder.info.classes == classes
    deep = isinstance(head, torch.nn.Sequential) and not classes
    assert any("several layers" in sentence for sentence in encoder.info.assumed) == deep


def test_heads_are_the_files_or_the_published_ones_or_asked_for(tmp_path):
    torch.save(training(theirs(width=128, heads=2, depth=1).state_dict()), tmp_path / "x.pth")
    assert open_model(tmp_path / "x.pth").info.heads == 2  # 64 channels each: args.model is vit_b_16
    torch.save(theirs(width=768, heads=12, depth=1).state_dict(), tmp_path / "x.pth")
    info = open_model(tmp_path / "x.pth").info
    assert info.heads == 12 and any("width/64 = 12" in sentence for sentence in info.assumed)
    torch.save(theirs().state_dict(), tmp_path / "x.pth")
    with pytest.raises(FdlabError, match="heads is unknown") as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3 and "heads=" in caught.value.fix


@pytest.mark.parametrize(
    ("key", "shape", "word"),
    [
        (
            "encoder.layers.encoder_layer_1.self_attention.in_proj_weight",
            (96, WIDTH),
            "qkv.weight (96, 48) for (144, 48)",
        ),
        ("encoder.layers.encoder_layer_1.ln_2.weight", (49,), "norm2.weight (49,) for (48,)"),
        ("encoder.pos_embedding", (1, 24, WIDTH), "23 position rows are not a square grid"),
        ("conv_proj.weight", (WIDTH, 3, PATCH, 5), "4x5 pixels"),
        ("class_token", (1, 2, WIDTH), "cls_token (1, 2, 48) for (1, 1, 48)"),
        ("heads.head.weight", (7, 49), "head.weight (7, 49) for (7, 48)"),
        ("encoder.layers.encoder_layer_1.mlp.3.bias", None, "missing: blocks.1.mlp.fc2.bias"),
        ("encoder.layers.encoder_layer_9.ln_1.weight", (WIDTH,), "missing: blocks.2"),
        ("encoder.something", (WIDTH,), "not known: encoder.something"),
    ],
)
def test_a_changed_file_is_refused_with_its_key(key, shape, word, tmp_path):
    state = theirs().state_dict()
    state.pop(key, None)
    if shape is not None:
        state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(FdlabError) as caught:
        open_model(tmp_path / "x.pth", heads=HEADS)
    assert caught.value.code == 3 and word in caught.value.why


def test_a_convolutional_stem_is_refused_by_name(tmp_path):
    stem = [ConvStemConfig(8, 3, 2), ConvStemConfig(16, 3, 2)]
    torch.save(theirs(conv_stem_configs=stem).state_dict(), tmp_path / "x.pth")
    with pytest.raises(FdlabError, match="convolutional stem") as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3
