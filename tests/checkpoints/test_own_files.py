"""No rule keys on a width, depth or image size: own random files of other sizes in every layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from layouts import LAYOUTS, SIZES, renamed, spread, vit

from fdlab.checkpoints.open import open_model
from fdlab.encoders.anatomy import as_tokens
from fdlab.encoders.positions import resize_relative
from fdlab.errors import FdlabError


@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s.width}x{s.depth}")
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_at_other_sizes(name, sizes, tmp_path):
    make, family = LAYOUTS[name]
    module, content, given = make(sizes)
    half = name in ("beit_finetuned", "data2vec_finetuned")
    if half:
        module.load_state_dict({key: value.half().float() for key, value in module.state_dict().items()})
    torch.save(content(module), tmp_path / "x.bin")
    encoder = open_model(tmp_path / "x.bin", **given)
    info = encoder.info
    assert info.family == family and type(encoder.module) is type(module)
    size = module.patch_embed.img_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = as_tokens(module.forward_features(images), module)
        got = encoder.tokens(images)
        assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
        if info.classes:
            assert torch.allclose(encoder.logits(images), module(images), atol=1e-4)
    assert info.image_size == size[0] and info.patch_size == sizes.patch and info.heads_from


def test_legacy_compiled_and_wrapped_files_are_the_same_network(tmp_path):
    module = vit(SIZES[0])
    torch.save(renamed(module), tmp_path / "plain.pth")
    identity = open_model(tmp_path / "plain.pth", heads=3).info.sha256
    torch.save(renamed(module, prefix="module._orig_mod."), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert open_model(tmp_path / "x.pth", heads=3).info.sha256 == identity
    torch.save({"checkpoint": {"state_dict": renamed(module)}}, tmp_path / "nested.pth")
    assert open_model(tmp_path / "nested.pth", heads=3).info.sha256 == identity


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("_fsdp_wrapped_module.blocks.0._flat_param", "teacher_checkpoint.pth"),
        ("blocks.0.attn1.qkv.weight", "parallel"),
        ("patch_embed.proj.0.weight", "convolutional stem"),
        ("visual.layer1.0.conv1.weight", "ResNet"),
        ("visual.trunk.pos_embed", "timm:NAME"),
    ],
)
def test_known_layouts_that_cannot_be_opened_are_refused_by_name(key, word, tmp_path):
    torch.save({"model": {key: torch.zeros(2, 2)}}, tmp_path / "x.pth")
    with pytest.raises(FdlabError) as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3 and key in caught.value.why and word in str(caught.value.what) + caught.value.fix


def test_eva02_without_rope_tables_says_its_rotary_unit_or_asks_for_heads(tmp_path):
    module, content, given = LAYOUTS["eva02_without_tables"][0](SIZES[2])
    torch.save(content(module), tmp_path / "x.pth")
    assumed = open_model(tmp_path / "x.pth", **given).info.assumed
    assert any("rotary unit 16x16" in sentence for sentence in assumed)
    with pytest.raises(FdlabError) as caught:
        open_model(tmp_path / "x.pth")
    assert caught.value.code == 3 and "heads=" in caught.value.fix


def test_timm_folders_open_by_their_architecture(tmp_path):
    import timm

    arguments = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4]}
    module = spread(timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **arguments))
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = open_model(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(encoder.logits(images), module(images), atol=1e-5)
    assert encoder.info.family == "timm" and encoder.info.mean == (0.1, 0.2, 0.3)
    assert encoder.info.windows == ((4, 4), (4, 4)) and encoder.info.timm_name == "swin_tiny_patch4_window7_224"


def test_geometric_resizing_keeps_the_nearest_offsets_and_the_class_rows():
    table = torch.randn(9 * 9 + 3, 2, generator=torch.Generator().manual_seed(0))
    new = resize_relative(table, (5, 5), (8, 8), "geometric")
    old_map, new_map = table[:81].view(9, 9, 2), new[:225].view(15, 15, 2)
    assert torch.allclose(new_map[6:9, 6:9], old_map[3:6, 3:6], atol=1e-5)  # offsets -1, 0, 1 are knots
    assert torch.equal(new[225:], table[81:])
    constant = torch.full((81, 1), 0.7)
    assert torch.allclose(resize_relative(constant, (5, 5), (3, 9), "geometric"), torch.full((85, 1), 0.7))


def test_swin_windows_follow_the_image_size(tmp_path):
    """A stage that was one small window becomes a full one: its table is moved, and it is said."""
    module, content, _ = LAYOUTS["swin"][0](SIZES[2])
    torch.save(content(module), tmp_path / "x.pth")
    side = module.patch_embed.img_size[0]
    assert open_model(tmp_path / "x.pth", image_size=2 * side).info.windows == ((4, 4),) * 3
    small = open_model(tmp_path / "x.pth", image_size=side // 4).info
    assert small.windows[-1] == (2, 2) and any("window of stage 3" in sentence for sentence in small.assumed)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_changed_file_is_refused_with_the_family_and_a_reason(name, tmp_path):
    """Each key of the network in turn missing, renamed or of another shape (a seeded third of them)."""
    module, content, given = LAYOUTS[name][0](SIZES[2])
    whole = content(module)
    if "teacher" in whole:  # the student, another network, may be as it likes
        whole = {"teacher": whole["teacher"], "ibot_loss": 0} if name == "ibot_full" else whole
    table = max((entry for entry in [whole, *whole.values()] if isinstance(entry, dict)), key=tensors_in)
    blocks = [key for key in table if ".0." in key and key.endswith("weight") and "head" not in key]
    blocks = [key for key in blocks if not key.startswith(("decoder", "feature_model"))]
    for number, key in enumerate(blocks[::3]):
        kept = table[key]
        del table[key]
        if number % 3 == 1:
            table[f"{key}_changed"] = kept
        elif number % 3 == 2:
            table[key] = torch.zeros(3, 3)
        torch.save(whole, tmp_path / "x.pth")
        with pytest.raises(FdlabError) as caught:
            open_model(tmp_path / "x.pth", **given)
        assert caught.value.code == 3 and caught.value.why
        table.pop(f"{key}_changed", None)
        table[key] = kept


def tensors_in(entry):
    return sum(isinstance(value, torch.Tensor) for value in entry.values())
