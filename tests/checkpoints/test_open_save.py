"""fdlab's own files, run folders, random controls, timm names, sizes, exports."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fdlab.checkpoints.export import export_timm
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import save_encoder
from fdlab.checkpoints.sources import parse_label
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.student import Design, build
from fdlab.errors import FdlabError

DESIGN = Design(24, 4, 32, 2, 4, layer_scale=0.1, drop_path=0.1, bias_scale=10.0)
IMAGES = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def trained(design=DESIGN, seed=0):
    """A built module whose every parameter has moved."""
    module = build(design, seed=seed)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            generator = torch.Generator().manual_seed(number)
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return module


def saved(path, design=DESIGN, **extra):
    module = trained(design)
    save_encoder(path, module, design=design, mean=(0.5, 0.5, 0.5), std=(0.25,) * 3, family="fd", seed=7, **extra)
    return module.eval()


@pytest.mark.parametrize("position", ["shared_bias", "block_bias", "sincos", "learned", "none"])
@pytest.mark.parametrize("token", [False, True])
def test_a_saved_student_opens_as_it_was(tmp_path, position, token):
    scale = 10.0 if "bias" in position else 1.0
    design = replace(DESIGN, position=position, class_token=token, bias_scale=scale)
    module = saved(tmp_path / "student.safetensors", design)
    encoder = open_model(tmp_path)  # the run folder
    with torch.no_grad():
        normalised = encoder.normalise(IMAGES)
        torch.testing.assert_close(normalised, (IMAGES - 0.5) / 0.25)
        torch.testing.assert_close(encoder.tokens(normalised), module.forward_features(normalised), atol=0, rtol=0)
    assert encoder.info.family == "fd" and encoder.info.mean == (0.5, 0.5, 0.5)
    assert encoder.info.options == (("bias_scale 10",) if scale != 1 else ())
    assert not encoder.module.training
    assert encoder.info.sha256 == open_model(tmp_path / "student.safetensors").info.sha256


def test_saving_leaves_no_draft_and_keeps_the_training_module(tmp_path):
    module = trained()
    keys = list(module.state_dict())
    save_encoder(
        tmp_path / "a.safetensors",
        module,
        design=DESIGN,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        family="fd",
        seed=0,
        extra={"recipe": "x"},
        options=("few images",),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert list(module.state_dict()) == keys
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        entry = json.loads(file.metadata()["fdlab"])
    assert entry["extra"] == {"recipe": "x"} and entry["options"] == ["bias_scale 10", "few images"]
    assert entry["parameters"] == sum(p.numel() for p in module.parameters())


def test_description_alone_rebuilds_the_stock_class(tmp_path):
    saved(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        entry = json.loads(file.metadata()["fdlab"])["timm"]
    module, _, name = entry["path"].rpartition(".")
    stock = getattr(importlib.import_module(module), name)(**entry["kwargs"])
    stock.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=True)


@pytest.mark.parametrize("position", ["shared_bias", "block_bias", "sincos", "learned"])
@pytest.mark.parametrize("token", [False, True])
def test_own_files_open_at_other_sizes(tmp_path, position, token):
    design = replace(DESIGN, position=position, class_token=token, bias_scale=1.0)
    saved(tmp_path / "a.safetensors", design)
    encoder = open_model(tmp_path / "a.safetensors", image_size=(16, 32))
    assert encoder.info.grid == (4, 8) and encoder.info.image_size == (16, 32)
    assert encoder.tokens(torch.randn(1, 3, 16, 32)).shape == (1, 32 + token, 32)
    assert len(encoder.info.assumed) == 1 and "4x8" in encoder.info.assumed[0]


def test_random_control_is_the_design_before_its_first_step(tmp_path):
    saved(tmp_path / "student.safetensors")
    control = open_model(f"random:{tmp_path}", seed=3)
    start = build(replace(DESIGN, bias_scale=1.0), seed=3).state_dict()
    assert all(torch.equal(value, start[key]) for key, value in control.module.state_dict().items())
    hashes = {
        open_model(source, seed=seed).info.sha256 for source in (f"random:{tmp_path}", str(tmp_path)) for seed in (3, 4)
    }
    assert len(hashes) == 3  # the seed means nothing to a trained file
    assert control.info.taken == "random weights, seed 3" and control.info.options == ("bias_scale 10",)


def test_unfinished_and_foreign_folders_say_so(tmp_path):
    with pytest.raises(FdlabError, match="without a clear weight file"):
        open_model(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(FdlabError, match="training command again") as caught:
        open_model(tmp_path)
    assert caught.value.code == 3


def test_timm_names_with_random_weights():
    first = open_model("random:vit_tiny_patch16_224.augreg_in21k", image_size=32, seed=1)
    again = open_model("random:vit_tiny_patch16_224.augreg_in21k", image_size=32, seed=1)
    assert first.info.sha256 == again.info.sha256
    assert first.info.sha256 != open_model("random:vit_tiny_patch16_224.augreg_in21k", image_size=32).info.sha256
    assert first.info.mean == (0.5, 0.5, 0.5) and first.info.heads == 3 and first.info.grid == (2, 2)
    swin = open_model("random:swin_tiny_patch4_window7_224")
    tokens = swin.tokens(torch.randn(1, 3, 224, 224))
    assert tokens.shape == (1, 49, 768) and swin.info.grid == (7, 7) and swin.info.depth == 12
    resnet = open_model("random:resnet18", image_size=64)
    assert resnet.info.attention.startswith("none") and resnet.info.grid == (2, 2) and resnet.info.kind == "random"
    assert resnet.tokens(torch.randn(1, 3, 64, 64)).shape == (1, 4, 512)
    with pytest.raises(FdlabError, match="vit_tiny_patch16_224"):
        open_model("timm:vit_tiny_patch16_22")


def test_no_network_is_explained(monkeypatch):
    def offline(*_args, **_kwargs):
        raise OSError("connection refused")

    monkeypatch.setattr(timm, "create_model", offline)
    for source in ("vit_tiny_patch16_224", "timm:vit_tiny_patch16_224"):
        with pytest.raises(FdlabError, match="No network") as caught:
            open_model(source)
        assert caught.value.code == 3 and "weight file" in caught.value.fix


def test_published_weights_through_timm_keep_the_classifier(monkeypatch):
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda pretrained, **kwargs: real(pretrained=False, **kwargs))
    encoder = open_model("vit_tiny_patch16_224", image_size=32)
    assert encoder.info.classes == 1000 and encoder.logits(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


def test_wrong_images_are_explained(tmp_path):
    saved(tmp_path / "a.safetensors")
    encoder = open_model(tmp_path / "a.safetensors")
    for shape, word in (
        ((1, 1, 24, 24), "3, H, W"),
        ((3, 24, 24), "3, H, W"),
        ((1, 3, 2, 2), "smaller than one patch"),
        ((1, 3, 26, 26), "multiple of the patch"),
        ((1, 3, 32, 32), "image_size="),
    ):
        with pytest.raises(FdlabError, match=word) as caught:
            encoder.tokens(torch.zeros(shape))
        assert caught.value.code == 2
    with pytest.raises(FdlabError, match="No block 2"):
        encoder.attention(torch.zeros(1, 3, 24, 24), blocks=(2,))
    with pytest.raises(FdlabError, match="classifier"):
        encoder.logits(torch.zeros(1, 3, 24, 24))
    with pytest.raises(FdlabError):
        encoder.normalise(torch.zeros(1, 3, 24, 24, dtype=torch.uint8))
    for size in (25, 2, (24, 0)):
        with pytest.raises(FdlabError) as caught:
            open_model(tmp_path / "a.safetensors", image_size=size)
        assert caught.value.code == 2


def test_activation_can_be_replaced(tmp_path):
    saved(tmp_path / "a.safetensors")
    plain, quick = (open_model(tmp_path / "a.safetensors", activation=name) for name in (None, "quick_gelu"))
    assert (plain.info.activation, quick.info.activation) == ("gelu", "quick_gelu")
    assert plain.info.sha256 != quick.info.sha256
    images = plain.normalise(IMAGES)
    assert not torch.allclose(plain.tokens(images), quick.tokens(images), atol=1e-4)
    with pytest.raises(FdlabError):
        open_model(tmp_path / "a.safetensors", activation="tanh")


@pytest.mark.parametrize("token", [False, True])
def test_exported_file_is_stock_timm(tmp_path, token):
    saved(tmp_path / "a.safetensors", replace(DESIGN, class_token=token))
    encoder = open_model(tmp_path / "a.safetensors")
    path = export_timm(encoder, tmp_path / "timm.safetensors")
    with safe_open(path, framework="pt") as file:
        entry = json.loads(file.metadata()["timm"])
    module, _, name = entry["path"].rpartition(".")
    stock = getattr(importlib.import_module(module), name)(**entry["kwargs"]).eval()
    stock.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        images = encoder.normalise(IMAGES)
        torch.testing.assert_close(stock.forward_features(images), encoder.tokens(images), atol=0, rtol=0)
    with pytest.raises(FdlabError):
        export_timm(Encoder.wrap(build(DESIGN, seed=0)), tmp_path / "no.safetensors")


def test_a_model_without_a_design_is_saved_by_its_timm_call(tmp_path):
    encoder = open_model("random:vit_tiny_patch16_224", image_size=32)
    save_encoder(
        tmp_path / "encoder.safetensors",
        encoder.module,
        design=None,
        call=encoder.call,
        mean=encoder.info.mean,
        std=encoder.info.std,
        family="finetuned",
        seed=0,
    )
    again = open_model(tmp_path)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again.tokens(images), encoder.tokens(images), atol=0, rtol=0)
    with pytest.raises(FdlabError):
        save_encoder(
            tmp_path / "x.safetensors",
            encoder.module,
            design=None,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            family="x",
            seed=0,
        )


def test_a_changed_own_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    saved(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(tmp_path / "a.safetensors")
    save_file({k: v for k, v in weights.items() if k != "norm.bias"}, tmp_path / "cut.safetensors", metadata)
    with pytest.raises(FdlabError, match=r"norm\.bias"):
        open_model(tmp_path / "cut.safetensors")
    for text in ("{", "[]", '{"format": 99}', '{"format": 1}'):
        save_file(weights, tmp_path / "odd.safetensors", {"fdlab": text})
        with pytest.raises(FdlabError) as caught:
            open_model(tmp_path / "odd.safetensors")
        assert caught.value.code == 3


def test_labels():
    assert parse_label("teacher=runs/a/student.safetensors") == ("teacher", "runs/a/student.safetensors")
    assert parse_label("runs/a/student.safetensors") == ("a", "runs/a/student.safetensors")
    assert parse_label("w/dino.pth@student") == ("dino@student", "w/dino.pth@student")
    assert parse_label("random:runs/a")[0] == "random a"
    assert parse_label("vit_tiny_patch16_224") == ("vit_tiny_patch16_224", "vit_tiny_patch16_224")
    assert parse_label("data/lr=3/x.pth") == ("x", "data/lr=3/x.pth")
    with pytest.raises(FdlabError):
        parse_label("a=")


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", "cuda:x", "cuda:99"):
        with pytest.raises(FdlabError) as caught:
            pick_device(name)
        assert caught.value.code == 2
