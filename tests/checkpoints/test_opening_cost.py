"""What opening costs: time beside stock timm, peak memory, and the time of ``inspect``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # importlib mode adds no folder by itself

from checkpoints import make_file, peak_memory, seconds

from fdlab.checkpoints.inspection import facts
from fdlab.checkpoints.open import open_model


def test_inspect_of_a_small_file_takes_a_fifth_of_a_second(shared):
    path = shared("fixtures/dino_full/dino_deitsmall8_pretrain_full_checkpoint.pth")

    def once():
        start = time.process_time()
        facts(open_model(path))
        return time.process_time() - start

    once()  # imports
    assert min(once() for _ in range(5)) < 0.2


@pytest.mark.slow
def test_opening_a_vit_b_is_not_slower_than_timm_and_holds_memory(tmp_path):
    path = make_file(tmp_path / "x.pth")
    taken = seconds(path)
    assert taken["fdlab"] <= taken["timm"], taken
    assert peak_memory(path, "fdlab") <= 2.2 * path.stat().st_size
    state = torch.load(path, mmap=True)
    save_file(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    del state
    for name in ("x.safetensors", "old.pth"):
        file = tmp_path / name
        assert peak_memory(file, "fdlab") <= 2.2 * file.stat().st_size, name
