"""Authors' files give the authors' own outputs: tokens, attention, other image sizes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fdlab.checkpoints.open import open_model
from fdlab.encoders.encoder import pair
from fdlab.errors import FdlabError

# What is recognised where the structure cannot tell more than the notes of the file do.
SAME_LAYOUT = {
    "ibot_teacher": "dino",
    "hf_deit_with_teacher": "hf_vit",
    "fd_vit_finetuned": "simmim_finetuned",
    "beitv2_finetuned": "beit_finetuned",
    "beitv2_pretrained": "beitv2",
    "dcp_folder": "deit",
    "hf_ijepa_classifier": "hf_vit",
    "hf_deit_classifier": "hf_vit",
    "hf_upernet_swin": "hf_swin",
    "hf5_dinov2_state_dict": "hf_dinov2",
    "hf5_dinov3_state_dict": "hf_dinov3_vit",
    "hf5_vit_state_dict": "hf_vit",
    "lightly_dino_benchmark": "timm_vit",
    "lightly_train_last": "timm_vit",
    "sololearn_byol": "timm_vit",
    "timm_hf_folder": "timm",
    "timm_train_checkpoint": "timm",
}
# Classifiers of several layers, or over something else than the tokens' mean or class token: left out, and said.
HEAD_LEFT_OUT = frozenset({"mae_linear_probe", "mae_linear_probe_gap"})
HEAD_UNSAID = frozenset(
    {"lightning_net_compiled", "timm_clip_gelu", "mmpretrain_vit"}
)  # the notes do not say what the file holds
FOLDER = Path(os.environ.get("FDLAB_SHARED", "../shared")) / "fixtures"
NAMES = sorted({path.parent.name for path in FOLDER.glob("*/meta.json")}) or ["dino_backbone"]


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


def files_of(folder, meta):
    return [folder / name for name in (meta["open_file"], *meta.get("also_open", []))]


def keywords(meta):
    taken = {"encoder": meta["open_as"].removeprefix("@")} if meta.get("open_as") else {}
    size = {"image_size": meta["image_size"][0]} if meta.get("name") == "hf5_dinov3_state_dict" else {}  # in no tensor
    return {**size, **meta["open_with"], **taken}


def recorded(folder):
    return folder, json.loads((folder / "meta.json").read_text()), load_file(folder / "expected.safetensors")


@pytest.fixture(params=NAMES)
def published(request, shared):
    return recorded(shared(f"fixtures/{request.param}"))


def test_tokens_attention_and_logits_are_the_authors(published):
    check_outputs(*published)


def test_the_description_is_the_authors(published):
    check_description(*published)


def check_outputs(folder, meta, expected):
    for path in files_of(folder, meta):
        encoder = open_model(path, **keywords(meta))
        with torch.no_grad():
            wanted = expected.get("tokens_authors", expected["tokens"])
            assert relative_error(encoder.tokens(expected["images"]), wanted) < 2e-5
            if "tokens_authors" in expected:  # the maps, and a second set of tokens, are those of exact GELU
                encoder = open_model(path, **keywords(meta), activation="gelu")
                assert relative_error(encoder.tokens(expected["images"]), expected["tokens"]) < 2e-5
            maps = encoder.attention(expected["images"])
        assert relative_error(maps[0], expected["attn_first"]) < 5e-6
        assert relative_error(maps[-1], expected["attn_last"]) < 5e-6
        logits = expected.get("logits", expected.get("output")) if encoder.info.classes else None
        left_out = any("left out" in sentence for sentence in encoder.info.assumed)
        classes = 0 if folder.name in HEAD_LEFT_OUT and left_out else meta.get("num_classes") or meta.get("classes")
        assert bool(encoder.info.classes) == bool(classes) or folder.name in HEAD_UNSAID
        if logits is not None:
            with torch.no_grad():
                assert relative_error(encoder.logits(expected["images"]), logits) < 2e-5
        assert encoder.info.family == SAME_LAYOUT.get(folder.name, meta["family"])


def check_description(folder, meta, _expected):
    info = open_model(files_of(folder, meta)[0], **keywords(meta)).info
    depths = meta.get("depths")
    assert info.depth == (sum(depths) if depths else meta["depth"])
    assert info.patch_size == meta.get("patch_size", meta.get("patch")) and info.norm_eps == meta["norm_eps"]
    sides = meta["image_size"] if isinstance(meta["image_size"], list) else [meta["image_size"]] * 2
    assert pair(info.image_size) == tuple(sides)
    heads = meta["heads"]
    assert info.heads == (heads[-1] if isinstance(heads, list) else heads) and info.heads_from
    assert not isinstance(heads, list) or (info.stage_heads, info.stage_depths) == (tuple(heads), tuple(depths))
    prefix = meta["prefix_tokens"]
    assert info.prefix_tokens == (len(prefix) if isinstance(prefix, list) else prefix)
    if meta["family"] not in ("timm_vit",) and folder.name != "beitv2_finetuned":
        assert info.mean == pytest.approx(meta["mean"]) and info.std == pytest.approx(meta["std"])


def test_what_the_file_omits_is_assumed_and_said_or_refused_by_keyword(published):
    folder, meta, expected = published
    given = keywords(meta)
    known = {key: value for key, value in given.items() if key == "encoder"}
    try:
        encoder = open_model(files_of(folder, meta)[0], **known)
    except FdlabError as error:
        assert error.code == 3 and any(f"{name}=" in error.fix for name in meta["open_with"])  # noqa: PT017
        return
    assert encoder.info.heads_from or not meta["open_with"]
    if "image_size" in meta["open_with"]:  # rotary positions fit any size
        assert not meta.get("image_note") or any(text.startswith("image size ") for text in encoder.info.assumed)
        encoder = open_model(files_of(folder, meta)[0], **known, image_size=meta["open_with"]["image_size"])
    with torch.no_grad():
        wanted = expected.get("tokens_authors", expected["tokens"])
        assert relative_error(encoder.tokens(expected["images"]), wanted) < 2e-5


def test_other_image_sizes_use_the_authors_resize(published):
    folder, meta, expected = published
    if "images_alt" not in expected:
        pytest.skip("the authors' output at a second size is not part of this file")
    size = tuple(expected["images_alt"].shape[-2:])
    encoder = open_model(files_of(folder, meta)[0], image_size=size, **keywords(meta))
    with torch.no_grad():
        assert relative_error(encoder.tokens(expected["images_alt"]), expected["tokens_alt"]) < 2e-5
    assert any("position table" in sentence for sentence in encoder.info.assumed)


def test_every_file_opens_at_twice_its_size_and_as_a_random_control(published):
    folder, meta, _ = published
    path, given = files_of(folder, meta)[0], keywords(meta)
    native = open_model(path, **given).info
    given = {**given, "image_size": tuple(2 * side for side in pair(native.image_size))}
    encoder = open_model(path, **given)
    assert encoder.info.grid == (2 * native.grid[0], 2 * native.grid[1])
    assert encoder.info.positions == native.positions and encoder.info.sha256 != native.sha256
    tabled = not native.windows and not native.positions.startswith("rotary, temperature")
    assert not tabled or any("position table" in sentence for sentence in encoder.info.assumed)
    images = torch.randn(1, 3, *pair(encoder.info.image_size))
    control = open_model(f"random:{path}", **given)
    with torch.no_grad():
        for model in (encoder, control):
            tokens = model.tokens(images)
            assert (
                tokens.isfinite().all()
                and tokens.shape[1] == native.prefix_tokens + 4 * native.grid[0] * native.grid[1]
            )
    assert control.info.sha256 != encoder.info.sha256 and "random" in control.info.taken


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


def test_the_frozen_teacher_of_a_distillation_file_is_never_taken(shared):
    for name in ("fd_vit_distilled", "fd_swin_v2_distilled"):
        folder = shared(f"fixtures/{name}")
        path = folder / json.loads((folder / "meta.json").read_text())["open_file"]
        info = open_model(path).info
        assert info.taken == "encoder" and not info.others and info.left_over > 10
        assert any("feature_model" in sentence for sentence in info.assumed)
        with pytest.raises(FdlabError, match="holds no 'feature_model'"):
            open_model(f"{path}@feature_model")


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ijepa_full", "encoder"),
        ("mocov3_full", "momentum_encoder"),
        ("data2vec_pretrain", "ema"),
        ("eva02_finetuned", "ema"),
        ("timm_train_checkpoint", "model"),
        ("esvit_swin", "student"),
    ],
)
def test_the_other_network_of_a_file_is_another_network(shared, name, other):
    folder = shared(f"fixtures/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    path, expected = folder / meta["open_file"], load_file(folder / "expected.safetensors")
    first, second = open_model(path, **meta["open_with"]), open_model(f"{path}@{other}", **meta["open_with"])
    assert other in first.info.others and first.info.taken in second.info.others
    assert first.info.sha256 != second.info.sha256
    with torch.no_grad():
        assert relative_error(second.tokens(expected["images"]), expected["tokens"]) > 0.05
        for prefix in ("raw_", "ema_", "student_"):
            if f"{prefix}tokens" in expected:
                assert relative_error(second.tokens(expected["images"]), expected[f"{prefix}tokens"]) < 2e-5


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
