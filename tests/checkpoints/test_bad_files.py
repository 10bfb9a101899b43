"""Damaged, foreign and hostile files: an FdlabError that names the file, and nothing is run."""

from __future__ import annotations

import argparse
import collections
import enum
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.unpickle import read_weights
from fdlab.errors import FdlabError

WEIGHTS = {"weight": torch.arange(600.0), "bias": torch.zeros(2)}


class Attack:
    """Pickles as a call that leaves a canary file behind if the reader makes it."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


class Config(dict):
    pass


class Colour(enum.Enum):
    RED = 1


def same_tensors(got, expected):
    return set(got) == set(expected) and all(torch.equal(got[key], value) for key, value in expected.items())


def bad_files(folder):
    whole_zip, whole_old, whole_safe = (folder / f"whole{n}" for n in range(3))
    torch.save(WEIGHTS, whole_zip)
    torch.save(WEIGHTS, whole_old, _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, whole_safe)
    cases = {
        "empty": (b"", "empty"),
        "html": (b"\n<!DOCTYPE html><html></html>", "web page"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "text": (b"hello, these are no weights", "no weight file"),
        "cut zip": (whole_zip.read_bytes()[:700], "cut short"),
        "cut legacy": (whole_old.read_bytes()[:-900], "cut short"),
        "cut safetensors": (whole_safe.read_bytes()[:-900], "cut short"),
        "short safetensors": (whole_safe.read_bytes()[:20], "cut short"),
        "pickle": (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        "broken pickle": (b"\x80\x02" + b"\xff" * 50, "cannot be read"),
    }
    for name, (data, word) in cases.items():
        path = folder / f"{name}.pth"
        path.write_bytes(data)
        yield path, word
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    yield folder / "other.zip", "without weights"
    torch.save([1, 2], folder / "list.pth")
    yield folder / "list.pth", "no table of weights"
    torch.save({"epoch": 3}, folder / "nothing.pth")
    yield folder / "nothing.pth", "no tensors"
    torch.save(WEIGHTS, folder / "foreign.pth")
    yield folder / "foreign.pth", "weight, bias"
    yield folder / "absent.pth", "does not exist"


def test_every_bad_file_is_explained(tmp_path):
    for path, word in bad_files(tmp_path):
        with pytest.raises(FdlabError) as caught:
            open_model(path)
        assert caught.value.code == 3, path
        assert path.name in caught.value.what, path
        assert word in str(caught.value), (path, str(caught.value))


def test_folder_and_unknown_names_are_explained(tmp_path):
    with pytest.raises(FdlabError, match="is a folder without"):
        read_weights(tmp_path)
    for source in ("", "no-such-model", "no/such/file", "random:", "timm:", "a@b", "random:no/such"):
        with pytest.raises(FdlabError) as caught:
            open_model(source)
        assert caught.value.code == 3, source


def test_torchscript_gives_its_parameters_and_its_code_is_not_loaded(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.jit.trace(module.eval(), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    file = read_weights(tmp_path / "script.pt")
    assert file.kind == "TorchScript archive"
    assert same_tensors(file.content, module.state_dict())


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("how", ["system", "eval", "import", "load"])
def test_reading_runs_nothing(tmp_path, monkeypatch, new, how):
    canary = tmp_path / "canary"
    inner = tmp_path / "inner.pth"
    make = f"open({str(canary)!r}, 'w').close()"
    torch.save({"x": Attack(exec, make)}, inner)
    attack = {
        "system": Attack(os.system, f"touch {canary}"),
        "eval": Attack(eval, make[:-8]),
        "import": Attack(exec, make),
        # an allowed-looking torch function that is an open load in disguise
        "load": Attack(torch.storage._load_from_bytes, inner.read_bytes()),
    }[how]
    path = tmp_path / "hostile.pth"
    torch.save({"model": WEIGHTS, "args": attack}, path, _use_new_zipfile_serialization=new)
    torch.load(path, weights_only=False)
    assert canary.exists()  # the attack works on an open load
    canary.unlink()
    file = read_weights(path)
    assert not canary.exists()
    assert torch.equal(file.content["model"]["weight"], WEIGHTS["weight"]) and len(file.stubs) == 1
    hostile = tmp_path / "bare.pth"
    hostile.write_bytes(pickle.dumps(attack, protocol=2))
    with pytest.raises(FdlabError):
        read_weights(hostile)
    assert not canary.exists()


@pytest.mark.parametrize("new", [True, False])
def test_training_files_with_foreign_classes_are_read(tmp_path, new):
    import numpy

    config = Config(lr=1)
    config["table"] = WEIGHTS["bias"]
    content = {
        "model": collections.OrderedDict(WEIGHTS),
        "args": argparse.Namespace(arch="vit_small"),
        "config": config,
        "lr": numpy.float64(0.1),
        "array": numpy.arange(3),
        "counts": collections.defaultdict(list, a=[1]),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "colour": {Colour.RED: 1},
        "seen": {1, 2},
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    read = read_weights(tmp_path / "x.pth").content
    assert all(torch.equal(read["model"][key], value) for key, value in WEIGHTS.items())
    assert read["args"].arch == "vit_small" and read["half"].dtype == torch.bfloat16 and read["seen"] == {1, 2}
    assert torch.equal(read["config"]["table"], WEIGHTS["bias"]) and torch.equal(read["parameter"], torch.ones(2))


def test_safetensors_under_any_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.pth", {"note": json.dumps(1)})
    file = read_weights(tmp_path / "weights.pth")
    assert file.kind == "safetensors" and file.metadata == {"note": "1"}
    assert torch.equal(file.content["weight"], WEIGHTS["weight"])
