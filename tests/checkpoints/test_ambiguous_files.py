"""Files that could be read in two ways, and small files that could take for ever: refused, and at once."""

from __future__ import annotations

import io
import pickle
import time
import zipfile

import pytest
import timm
import torch

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.pickles import Machine
from fdlab.checkpoints.storages import PickleError
from fdlab.errors import USAGE, FdlabError


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1
    )
    return {key: value + 0.01 for key, value in model.state_dict().items()}


def saved(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def test_a_key_with_and_without_its_wrapper_is_refused(tmp_path, weights):
    twice = weights | {f"module.{key}": torch.zeros_like(value) for key, value in weights.items()}
    with pytest.raises(FdlabError, match=r"not known: module\."):
        open_model(saved(tmp_path, twice), heads=1)
    for prefix in ("module.", "_orig_mod.module."):
        only = {prefix + key: value for key, value in weights.items()}
        assert open_model(saved(tmp_path, only), heads=1).info.depth == 2


def test_two_tables_of_one_name_are_never_taken_for_each_other(tmp_path, weights):
    zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
    with pytest.raises(FdlabError, match=r"a\.model: .*b\.model: "):
        open_model(saved(tmp_path, {"a": {"model": weights}, "b": {"model": zeros}}), heads=1)
    assert open_model(saved(tmp_path, {"a": {"model": weights}}), heads=1).info.depth == 2


def test_shared_tables_are_looked_at_once():
    level = {"w": torch.zeros(1)}
    for _ in range(3):
        level = {f"k{number}": level for number in range(300)}
    began = time.process_time()
    assert len(Contents.of(level).tables) == 1
    assert time.process_time() - began < 2


def test_block_numbers_have_no_gaps(tmp_path, weights):
    for number in (3, 300_000):
        with pytest.raises(FdlabError, match=r"missing: blocks\.2\.\*"):
            open_model(saved(tmp_path, weights | {f"blocks.{number}.norm1.weight": torch.zeros(64)}), heads=1)


def nested(depth=200):
    """A tuple of itself twice, again and again: short in a pickle, 2^depth long in print."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return pickle.dumps(value, 4)[2:-1]  # without protocol and STOP


def test_names_are_text():
    with pytest.raises(PickleError, match="no text"):
        Machine(io.BytesIO(b"\x80\x04" + nested() + b"\x8c\x01x\x93.")).run()


@pytest.mark.parametrize("place", ["name", "kind"])
def test_storages_have_short_names_and_known_kinds(tmp_path, place):
    kind, name = b"ctorch\nFloatStorage\n", b"\x8c\x010"
    kind, name = (nested(), name) if place == "kind" else (kind, nested())
    entry = b"(\x8c\x07storage" + kind + name + b"\x8c\x03cpuK\x01t" + b"Q"
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04" + entry + b".")
        archive.writestr("x/data/0", b"\0" * 4)
    began = time.process_time()
    with pytest.raises(FdlabError, match=r"no name|of a kind"):
        open_model(tmp_path / "x.pth")
    assert time.process_time() - began < 2


def test_a_wrong_activation_is_the_callers_mistake(tmp_path, weights):
    with pytest.raises(FdlabError, match="Unknown activation 'foo'") as caught:
        open_model(saved(tmp_path, weights), heads=1, activation="foo")
    assert caught.value.code == USAGE


def test_a_lone_tensor_is_called_a_tensor(tmp_path):
    with pytest.raises(FdlabError, match="holds a Tensor"):
        open_model(saved(tmp_path, torch.zeros(3)))
