"""Exported files: stock timm opens them in a process that cannot import fdlab, with the same tokens."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fdlab.checkpoints.export import export_model
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.stock import stock_name
from fdlab.errors import FdlabError

NAMES = [
    "dino_backbone",
    "mae_finetuned",
    "dinov2_giant_reg4",
    "dinov2_plain",
    "deit_distilled",
    "ijepa_full",
    "beit_pretrained",
    "beitv2_finetuned",
    "fd_vit_distilled",
    "swin_v1_classifier",
    "swin_v2_pretrained_window",
    "eva02_pretrained",
    "eva02_finetuned",
    "clip_openai",
    "open_clip_gelu",
    "hf_dinov2",
    "timm_hf_folder",
    "timm_train_checkpoint",
]

# Runs without fdlab: the printed line as it stands, the card's own settings, the tokens to a file.
CHILD = """
import functools, json, sys
import timm, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fdlab":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
for name in sys.argv[2:]:
    with safe_open(f"{sys.argv[1]}/{name}.safetensors", "pt") as file:
        line = json.loads(file.metadata()["card"])["open"]
    model = eval(line.replace('checkpoint_path="', f'checkpoint_path="{sys.argv[1]}/')).eval()
    with torch.no_grad():
        tokens = model.forward_features(load_file(f"{sys.argv[1]}/{name}.images")["images"])
    save_file({"tokens": tokens.contiguous()}, f"{sys.argv[1]}/{name}.tokens")
assert "fdlab" not in sys.modules
"""


def test_timm_alone_gives_the_same_tokens(shared, tmp_path):
    wanted = {}
    for name in NAMES:
        folder = shared(f"fixtures/{name}")
        meta = json.loads((folder / "meta.json").read_text())
        path = folder if meta["open_folder"] else folder / meta["open_file"]
        encoder = open_model(f"{path}{meta.get('open_as', '')}", **meta["open_with"])
        export_model(encoder, tmp_path / f"{name}.safetensors", "timm")
        images = load_file(folder / "expected.safetensors")["images"]
        save_file({"images": images}, tmp_path / f"{name}.images")
        with torch.no_grad():
            wanted[name] = encoder.module.forward_features(images)
        export_model(encoder, tmp_path / f"{name}-own.safetensors", "safetensors")
        again = open_model(tmp_path / f"{name}-own.safetensors")
        with torch.no_grad():
            assert torch.equal(again.tokens(images), encoder.tokens(images)), name
        assert set(again.info.assumed) >= set(encoder.info.assumed) and again.info.mean == encoder.info.mean
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), *NAMES], check=True, timeout=300)
    for name, tokens in wanted.items():
        got = load_file(tmp_path / f"{name}.tokens")["tokens"]
        assert float((got - tokens).abs().max() / tokens.abs().max()) < 1e-6, name


def test_the_card_says_where_the_weights_come_from(shared, tmp_path):
    encoder = open_model(shared("fixtures/dino_full/dino_deitsmall8_pretrain_full_checkpoint.pth"))
    path, line = export_model(encoder, tmp_path / "x.safetensors", "timm")
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["card"])
    assert card["open"] == line and card["sha256"] == encoder.info.sha256 and card["family"] == "dino"
    assert card["network"] == "teacher" and "unknown" in card["licence"] and card["assumed"]


def test_what_cannot_be_exported_says_why(shared, tmp_path):
    encoder = open_model(shared("fixtures/mae_encoder/mae_pretrain_vit_base.pth"), heads=2)
    for to, out, code in (("onnx", "x.safetensors", 2), ("timm", "x.pth", 2)):
        with pytest.raises(FdlabError) as caught:
            export_model(encoder, tmp_path / out, to)
        assert caught.value.code == code
    encoder.module.norm.eps = 0.1  # the module is no longer what its call makes
    with pytest.raises(FdlabError, match="other tokens"):
        export_model(encoder, tmp_path / "x.safetensors", "timm")
    assert not list(tmp_path.iterdir())


def test_a_changed_activation_is_exported(shared, tmp_path):
    path = shared("fixtures/mae_encoder/mae_pretrain_vit_base.pth")
    encoder = open_model(path, heads=2, activation="quick_gelu")
    _, line = export_model(encoder, tmp_path / "x.safetensors", "timm")
    assert "act_layer='quick_gelu'" in line
    export_model(encoder, tmp_path / "y.safetensors", "safetensors")
    assert open_model(tmp_path / "y.safetensors").info.activation == "quick_gelu"


def test_stock_names_of_published_architectures():
    from fdlab.encoders.encoder import TimmCall

    vit = "timm.models.vision_transformer.VisionTransformer"
    cases = {
        "vit_base_patch16_224": {},
        "vit_small_patch14_dinov2": {"patch_size": 14, "embed_dim": 384, "num_heads": 6, "init_values": 1.0},
        "vit_large_patch16_224": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    }
    for name, kwargs in cases.items():
        found = stock_name(TimmCall(vit, {"num_classes": 0, **kwargs}))
        assert found.name == name and found.fits, (name, found)
    sizes = {"img_size": 224, "embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    swin = TimmCall("timm.models.swin_transformer.SwinTransformer", {**sizes, "window_size": ((7, 7),) * 4}, 1e-5)
    assert stock_name(swin).name == "swin_tiny_patch4_window7_224" and stock_name(swin).fits
    sizes |= {"img_size": 256, "window_size": ((16, 16),) * 3 + ((8, 8),), "pretrained_window_sizes": (0,) * 4}
    swin = TimmCall("timm.models.swin_transformer_v2.SwinTransformerV2", sizes, 1e-5)
    assert stock_name(swin).name == "swinv2_tiny_window16_256" and stock_name(swin).fits
    tiny = stock_name(TimmCall(vit, {"num_classes": 0, "depth": 2, "num_heads": 4}))
    assert not tiny.fits and tiny.changes["depth"] == 2
    assert stock_name(TimmCall("fdlab.encoders.student.Other")) is None
