"""Containers: what the pickle machine reads equals torch.load; folders, shards, neighbours, inspect's report."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from fdlab.checkpoints.inspection import structure
from fdlab.checkpoints.pickles import Machine
from fdlab.checkpoints.storages import PickleError
from fdlab.checkpoints.unpickle import read_weights
from fdlab.cli.app import app
from fdlab.errors import FdlabError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, 4), "c": torch.tensor(3)}


def tensors(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{path}.{key}")


def test_every_shared_file_reads_as_torch_reads_it(shared):
    seen = 0
    for path in sorted(shared("fixtures").glob("*/*.p*t*")):
        try:
            expected = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):  # arguments, configurations, TorchScript
            assert dict(tensors(read_weights(path).content)), path
            continue
        got = dict(tensors(read_weights(path).content))
        for key, tensor in tensors(expected):
            assert got[key].dtype == tensor.dtype and torch.equal(got[key], tensor), (path, key)
            seen += 1
    assert seen > 500


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_survive_every_protocol(protocol):
    value = {"s": "ü", "n": [1, -2, 2**70, 1.5, None, True, b"xy"], "t": (1, (2, 3), ()), "e": {1, 2}, 5: [[]] * 3}
    if protocol < 3:
        value["n"].remove(b"xy")
    assert Machine(pickle.dumps(value, protocol)).run() == value


def test_views_parameters_and_shared_storages(tmp_path):
    base = torch.arange(24.0)
    saved = {"part": base[4:10].view(2, 3).t(), "all": base, "p": torch.nn.Parameter(base[:2].clone())}
    for new in (True, False):
        torch.save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
        got = read_weights(tmp_path / "x.pth").content
        assert all(torch.equal(got[key], value) for key, value in saved.items()), new
        assert got["part"].untyped_storage().data_ptr() == got["all"].untyped_storage().data_ptr()


def test_a_flipped_bit_in_a_weight_is_noticed_where_the_file_has_checksums(tmp_path):
    for checksums in (True, False):
        torch.serialization.set_crc32_options(checksums)
        try:
            torch.save(WEIGHTS, tmp_path / "x.pth")
        finally:
            torch.serialization.set_crc32_options(True)
        assert all(torch.equal(read_weights(tmp_path / "x.pth").content[key], WEIGHTS[key]) for key in WEIGHTS)
        whole = bytearray((tmp_path / "x.pth").read_bytes())
        place = whole.index(WEIGHTS["a.weight"].numpy().tobytes())
        whole[place + 6] ^= 1
        (tmp_path / "x.pth").write_bytes(whole)
        if checksums:
            with pytest.raises(FdlabError, match="checksum"):
                read_weights(tmp_path / "x.pth")
        else:  # torch can leave them out; then nothing can tell
            assert read_weights(tmp_path / "x.pth").content["a.weight"].flatten()[1] != 1


def test_limits_are_kept():
    with pytest.raises(PickleError, match="steps"):
        Machine(b"\x80\x02" + b"N0" * 600_000 + b"N.").run()
    with pytest.raises(PickleError, match=r"cut short|damaged"):
        Machine(b"\x80\x02]").run()


def test_a_pickled_module_gives_its_state(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save({"model": module, "epoch": 1}, tmp_path / "x.pth")
    got = read_weights(tmp_path / "x.pth").content["model"]
    assert set(got) == set(module.state_dict())
    assert all(torch.equal(got[key], value) for key, value in module.state_dict().items())


def test_folders_and_shards(tmp_path):
    save_file({"a.weight": WEIGHTS["a.weight"]}, tmp_path / "model-1.safetensors")
    save_file({"c": WEIGHTS["c"]}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a.weight": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    file = read_weights(tmp_path)
    assert set(file.content) == {"a.weight", "c"} and file.configs["config.json"]["hidden_size"] == 8
    for wrong in ("../model-1.safetensors", "absent.safetensors"):
        index["weight_map"]["c"] = wrong
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(FdlabError):
            read_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FdlabError, match="2 weight files"):
        read_weights(tmp_path)


def test_the_report_of_a_refused_file_holds_structure_only(tmp_path):
    path, out = tmp_path / "private-name.pth", tmp_path / "report.json"
    torch.save({"model": {"odd.weight": torch.full((2, 3), 0.123)}, "args": {"data": "/home/someone"}}, path)
    result = CliRunner().invoke(app, ["inspect", str(path), "--report", str(out)])
    assert isinstance(result.exception, FdlabError) and result.exception.code == 3
    text = out.read_text()
    assert json.loads(text)["content"]["model.odd.weight"] == "float32 [2, 3]"
    assert "someone" not in text and "0.123" not in text and str(tmp_path) not in text
    hint = CliRunner().invoke(app, ["inspect", str(path)]).exception
    assert "--report" in hint.fix
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:300])
    assert structure(tmp_path / "cut.pth")["first_bytes"].startswith("504b0304")


def test_inspect_prints_and_gives_json(shared):
    path = str(shared("fixtures/dino_full/dino_deitsmall8_pretrain_full_checkpoint.pth"))
    shown = CliRunner().invoke(app, ["inspect", path, "--heads", "2", "--image-size", "64"]).output
    assert "teacher (others: student)" in shown and "grid 8x8" in shown and "none fits" in shown
    facts = json.loads(CliRunner().invoke(app, ["inspect", path, "--json"]).output)
    wanted = (
        "family container taken others depth width heads heads_from patch_size grid prefix_tokens activation norm_eps"
    )
    wanted += " norm_eps mean std interpolation image_size parameters sha256 assumed timm_name timm_line"
    assert set(wanted.split()) <= set(facts)


def test_the_table_of_families_names_each_of_them():
    from pathlib import Path

    from fdlab.checkpoints.recognise import FAMILIES

    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    text = text.partition("## Families")[2]
    lines = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert lines == {family.name for family in FAMILIES}
