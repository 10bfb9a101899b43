"""Damaged and hostile files by the hundred: nothing runs, no traceback, little time and memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from hostile_files import call, make, make_bases

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.unpickle import read_weights
from fdlab.errors import FdlabError

MEMORY = 400 * 2**20  # growth of the process over all files together


def test_the_fuzzers_whole_files_open_and_its_calls_would_work(tmp_path):
    import pickle
    import random

    for name, data in make_bases(tmp_path).items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(data)
        if name == "script":
            with pytest.raises(FdlabError, match="no layout"):
                open_model(path)
        else:
            assert open_model(path, heads=None if name == "own" else 2).info.width == 16
    canary, draw = tmp_path / "canary", random.Random(0)
    for _ in range(300):
        fragment = call(draw, canary)
        if b"posix" in fragment and fragment.endswith(b"tR"):
            pickle.loads(b"\x80\x02" + fragment + b".")
            break
    assert canary.exists()


def run(numbers, folder):
    """Opens each file; returns (refused, opened, slowest)."""
    bases, canary = make_bases(folder), folder / "canary"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, opened, slowest = 0, 0, (0.0, "")
    for number in numbers:
        path = make(number, folder, bases, canary)
        start, said = time.process_time(), None
        try:
            open_model(path, heads=2 if b'"fdlab"' not in path.read_bytes()[:4000] else None)
            opened += 1
        except FdlabError as error:
            said = error
        slowest = max(slowest, (time.process_time() - start, path.name))
        assert not canary.exists(), path.name
        if said is not None:
            refused += 1
            assert path.name in str(said), (path.name, str(said))
            assert said.code in (2, 3) and len(str(said)) < 2000, (path.name, str(said))
        path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"{grown >> 20} MiB"
    assert slowest[0] < 5, slowest
    return refused, opened, slowest


def test_150_damaged_files(tmp_path):
    refused, opened, _ = run(range(150), tmp_path)
    assert refused > 100, (refused, opened)


@pytest.mark.slow
def test_1000_damaged_files(tmp_path):
    refused, opened, _ = run(range(1000), tmp_path)
    assert refused > 700, (refused, opened)


@pytest.mark.parametrize(
    "name", ["dinov2_giant_reg4", "hf_vit", "swin_v1_classifier", "eva02_pretrained", "clip_openai"]
)
def test_tensors_of_unexpected_shapes_are_refused(shared, tmp_path, name):
    folder = shared(f"fixtures/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    whole = dict(read_weights(folder if meta["open_folder"] else folder / meta["open_file"]).content)
    inner = whole.get("model", whole)
    keys = [key for key, value in inner.items() if isinstance(value, torch.Tensor) and value.ndim]
    refused = 0
    for number, key in enumerate(keys):
        odd = inner[key].reshape(-1) if number % 2 else inner[key][..., None]
        path = tmp_path / f"{number}.pth"
        torch.save({**inner, key: odd.clone()}, path)
        try:
            open_model(path, heads=2, **({"image_size": 64} if "swin" in name else {}))
        except FdlabError as error:
            refused += path.name in str(error)
        path.unlink()
    assert refused > len(keys) // 3  # text towers and heads are left over and may have any shape
