"""One network under many wrappers: it is found by structure, and what lies beside it is left out and named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from random_modules import random_vit

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError

PREFIXES = """
    model. net. vit. encoder. backbone. net._orig_mod. model._orig_mod.module. anything.at.all. _orig_mod.module.
    student. classy_state_dict.base_model.model.trunk. model.visual. wrapped_model._model.
    """.split()  # noqa: SIM905 (a column of names)


@pytest.fixture(scope="module")
def weights():
    return random_vit()


def under(prefix, table):
    return {f"{prefix}{key}": value for key, value in table.items()}


def opened(tmp_path, content, suffix="", **given):
    torch.save(content, tmp_path / "x.pth")
    return open_model(f"{tmp_path / 'x.pth'}{suffix}", heads=2, **given)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("table", ["", "state_dict", "model_state_dict", "net", "network", "params", "whatever"])
def test_any_prefix_in_any_table_is_the_same_network(tmp_path, weights, prefix, table):
    flat = under(prefix, weights)
    encoder = opened(tmp_path, {table: flat, "epoch": 3} if table else flat)
    assert encoder.info.sha256 == opened(tmp_path, weights).info.sha256
    assert not any("left out" in sentence for sentence in encoder.info.assumed)


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        (lambda a, b: {**under("student_backbone.", a), **under("teacher_backbone.", b)}, "teacher_backbone"),
        (
            lambda a, b: {"state_dict": {**under("backbone.vit.", b), **under("student_backbone.vit.", a)}},
            "backbone.vit",
        ),
        (lambda a, b: {"state_dict": {**under("backbone.", b), **under("momentum_backbone.", a)}}, "backbone"),
        (lambda a, b: {"net": under("model.", a), "net_ema": under("model.", b)}, "net_ema.model"),
        (lambda a, b: {"model": a, "model_ema": b}, "ema"),
        (lambda a, b: {"state_dict": {**under("model.", a), **under("ema_model.module.", b)}}, "ema_model.module"),
        (lambda a, b: {**under("online_encoder.", b), **under("target_encoder.", a)}, "online_encoder"),
        (lambda a, b: {**under("encoder_q.", b), **under("encoder_k.", a)}, "encoder_q"),
    ],
)
def test_averaged_weights_and_teachers_come_first_and_slow_copies_last(tmp_path, weights, content, taken):
    other = {key: value + 0.5 for key, value in weights.items()}
    encoder = opened(tmp_path, content(other, weights))
    assert encoder.info.sha256 == opened(tmp_path, weights).info.sha256 and encoder.info.taken == taken
    (second,) = opened(tmp_path, content(other, weights)).info.others
    assert opened(tmp_path, content(other, weights), f"@{second}").info.sha256 == opened(tmp_path, other).info.sha256


def test_networks_of_equal_standing_are_asked_for(tmp_path, weights):
    other = {key: value + 0.5 for key, value in weights.items()}
    content = {"state_dict": {**under("left.", weights), **under("right.", other)}}
    with pytest.raises(FdlabError, match="none of them comes first") as caught:
        opened(tmp_path, content)
    assert caught.value.code == 3 and "@left" in caught.value.why and "@right" in caught.value.why
    assert opened(tmp_path, content, "@right").info.sha256 == opened(tmp_path, other).info.sha256
    with pytest.raises(FdlabError, match="holds no 'middle'") as caught:
        opened(tmp_path, content, "@middle")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("prefix", "beside", "name"),
    [
        ("backbone.", {"classifier.1.weight": torch.ones(5, 16)}, "classifier"),
        ("vit.", {"fc.weight": torch.ones(5, 16), "fc.bias": torch.ones(5)}, "fc"),
        ("model.", {"criterion.weight": torch.ones(5)}, "criterion"),
        ("", {"n_averaged": torch.tensor(3)}, "n_averaged"),
        ("", {"head.0.running_mean": torch.ones(16), "head.1.weight": torch.ones(5, 16)}, "head"),
        ("", {"projection_head.0.weight": torch.ones(5, 16)}, "projection_head"),
        ("backbone.", {"linear_head.weight": torch.ones(5, 32)}, "linear_head"),
        ("encoder.", {"decoder.blocks.0.weight": torch.ones(5, 32)}, "decoder"),
    ],
)
def test_heads_beside_the_encoder_are_named_and_left_out(tmp_path, weights, prefix, beside, name):
    info = opened(tmp_path, {**under(prefix, weights), **beside}).info
    sentence = next(text for text in info.assumed if "left out, no part of the encoder" in text)
    assert name in sentence and info.left_over == len(beside)


def test_a_part_inside_the_network_that_is_not_known_is_still_refused(tmp_path, weights):
    for extra in ("model.blocks.0.adapter.weight", "model.spm.weight"):
        with pytest.raises(FdlabError, match=extra.removeprefix("model.")):
            opened(tmp_path, {**under("model.", weights), extra: torch.ones(3)})


def test_the_words_of_trainers_are_read(tmp_path):
    """The architecture's name in Lightning's hyper parameters gives the heads; LightlyTrain says mean and std."""
    import timm

    module = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0, num_heads=6)
    words = {"hyper_parameters": {"model_name": "vit_tiny_patch16_224"}}
    torch.save({"state_dict": under("model.", module.state_dict()), **words}, tmp_path / "x.ckpt")
    info = open_model(tmp_path / "x.ckpt").info
    assert info.depth == 1 and any("not that of its tensors" in sentence for sentence in info.assumed)
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save({"state_dict": under("model.", whole.state_dict()), **words}, tmp_path / "y.ckpt")
    info = open_model(tmp_path / "y.ckpt").info
    assert info.family == "timm" and info.heads == 3 and "vit_tiny_patch16_224" in info.heads_from
    normal = {"normalize_args": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}
    content = {
        "state_dict": under("teacher_embedding_model.wrapped_model._model.", random_vit()),
        "lightly_train": normal,
    }
    info = opened(tmp_path, content).info
    assert info.mean == (0.1, 0.2, 0.3) and info.std == (0.4, 0.5, 0.6)
