"""Authors' files give the authors' own outputs: tokens, attention, other image sizes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from fdlab.encoders.open import open_model
from fdlab.errors import FdlabError

NAMES = ["dino_backbone", "dino_full", "mae_encoder", "mae_full"]


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=NAMES)
def published(request, shared):
    folder = shared(f"fixtures/{request.param}")
    meta = json.loads((folder / "meta.json").read_text())
    return folder / meta["open_file"], meta["open_with"], meta, load_file(folder / "expected.safetensors")


def test_tokens_and_attention_are_the_authors(published):
    path, given, meta, expected = published
    encoder = open_model(path, **given)
    with torch.no_grad():
        assert relative_error(encoder.tokens(expected["images"]), expected["tokens"]) < 2e-5
        maps = encoder.attention(expected["images"])
    assert relative_error(maps[0], expected["attn_first"]) < 5e-6
    assert relative_error(maps[-1], expected["attn_last"]) < 5e-6
    info = encoder.info
    assert (info.family, info.width, info.depth) == (meta["family"], meta["width"], meta["depth"])
    assert info.prefix_kinds == ("cls",) and info.norm_eps == 1e-6 and info.activation == "gelu"
    assert any("heads" in sentence for sentence in info.assumed)


def test_other_image_sizes_use_the_authors_resize(published):
    path, given, _, expected = published
    if "images_alt" not in expected:
        pytest.skip("the authors' output at a second size is not part of this file")
    size = tuple(expected["images_alt"].shape[-2:])
    encoder = open_model(path, image_size=size, **given)
    with torch.no_grad():
        assert relative_error(encoder.tokens(expected["images_alt"]), expected["tokens_alt"]) < 2e-5
    assert any("position table" in sentence for sentence in encoder.info.assumed)


def test_teacher_is_the_default_and_the_student_another_network(shared):
    path = shared("fixtures/dino_full/dino_deitsmall8_pretrain_full_checkpoint.pth")
    expected = load_file(path.parent / "expected.safetensors")
    teacher, student = open_model(path), open_model(f"{path}@student")
    assert teacher.info.taken == "teacher" and teacher.info.others == ("student",)
    assert student.info.sha256 == open_model(path, encoder="student").info.sha256 != teacher.info.sha256
    with torch.no_grad():
        assert relative_error(student.tokens(expected["images"]), expected["tokens"]) > 0.1
    assert any("vit_small" in sentence for sentence in teacher.info.assumed)  # heads come from the arguments
    with pytest.raises(FdlabError, match="teacher"):
        open_model(f"{path}@base")
    with pytest.raises(FdlabError) as caught:
        open_model(f"{path}@student", encoder="teacher")
    assert caught.value.code == 2


def test_unknown_width_needs_a_head_count(shared):
    path = shared("fixtures/dino_backbone/dino_deitsmall8_pretrain.pth")
    with pytest.raises(FdlabError, match="heads=") as caught:
        open_model(path)
    assert caught.value.code == 3
    with pytest.raises(FdlabError) as caught:
        open_model(path, heads=3)
    assert caught.value.code == 2
    assert open_model(path, heads=4).info.sha256 != open_model(path, heads=2).info.sha256


def test_prefixes_do_not_change_the_network(shared, tmp_path):
    path = shared("fixtures/dino_backbone/dino_deitsmall8_pretrain.pth")
    weights, reference = torch.load(path), open_model(path, heads=2).info.sha256
    for number, prefix in enumerate(("module.", "backbone.", "module.backbone.")):
        changed = tmp_path / f"{number}.pth"
        torch.save({f"{prefix}{key}": value for key, value in weights.items()}, changed)
        assert open_model(changed, heads=2).info.sha256 == reference
    torch.save({"teacher": weights, "epoch": 3}, tmp_path / "early.pth")  # full files before June 2021
    assert open_model(tmp_path / "early.pth", heads=2).info.sha256 == reference
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert open_model(tmp_path / "legacy.pth", heads=2).info.sha256 == reference


@pytest.mark.parametrize("change", ["extra", "missing", "shape"])
def test_every_key_is_accounted_for(shared, tmp_path, change):
    weights = dict(torch.load(shared("fixtures/dino_backbone/dino_deitsmall8_pretrain.pth")))
    key = "blocks.1.norm2.bias"
    if change == "extra":
        key = "blocks.1.adapter.weight"
        weights[key] = torch.zeros(3)
    elif change == "missing":
        del weights[key]
    else:
        weights[key] = torch.zeros(5)
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(FdlabError, match=key) as caught:
        open_model(tmp_path / "x.pth", heads=2)
    assert caught.value.code == 3


@pytest.mark.parametrize(
    "name",
    [
        "deit_base_legacy",
        "deit3",
        "ijepa_full",
        "mocov3_full",
        "dinov2_plain",
        "swin_v1_classifier",
        "open_clip_gelu",
        "mae_finetuned",
    ],
)
def test_no_other_layout_is_mistaken_for_dino_or_mae(shared, name):
    folder = shared(f"fixtures/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    try:
        encoder = open_model(folder / meta["open_file"], heads=meta.get("heads"))
    except FdlabError as error:
        assert error.code == 3 and error.why  # noqa: PT017
    else:
        assert encoder.info.family not in ("dino", "mae")


def test_head_counts_of_published_widths_are_marked_as_assumed(tmp_path):
    from fdlab.encoders.student import Design, build

    module = build(Design(16, 8, 384, 1, 6, position="learned", class_token=True), seed=0)
    with torch.no_grad():
        module.pos_embed.add_(0.1)
    torch.save(module.state_dict(), tmp_path / "x.pth")
    info = open_model(tmp_path / "x.pth").info
    assert info.family == "dino" and info.heads == 6
    assert any("heads = width/64" in sentence for sentence in info.assumed)


def test_random_control_of_a_published_file(shared):
    path = shared("fixtures/mae_encoder/mae_pretrain_vit_base.pth")
    trained, control = open_model(path, heads=2), open_model(f"random:{path}", heads=2, seed=1)
    assert control.info.sha256 == open_model(f"random:{path}", heads=2, seed=1).info.sha256
    assert len({trained.info.sha256, control.info.sha256, open_model(f"random:{path}", heads=2).info.sha256}) == 3
    weights, fresh = trained.module.state_dict(), control.module.state_dict()
    assert torch.equal(weights["pos_embed"], fresh["pos_embed"])  # a formula, so the control has it as well
    assert not torch.equal(weights["blocks.0.attn.qkv.weight"], fresh["blocks.0.attn.qkv.weight"])
