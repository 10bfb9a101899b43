"""Signals, a full disk, too little memory: what was saved stays good, and the message says what to do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fdlab.engine import sharded
from fdlab.engine.trainer import STOPPING, stop_requests
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study import training
from fdlab.study.training import plan, run

ROOT = Path(__file__).resolve().parents[2]


def start(out: Path, steps: int = 4000) -> subprocess.Popen[str]:
    words = ["pretrain", "digits/masked", "-o", str(out), "--quiet"]
    for text in (f"run.steps={steps}", "run.batch=16", "save.every=3", "run.log_every=1"):
        words += ["--set", text]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fdlab", *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """In the child: a shell's background job starts with SIGINT ignored, and its children would ignore it too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not any(line["step"] >= step for line in RunFolder(out).read_log()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_finishes_the_step_saves_and_leaves_with_130(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "run")
    wait_for_step(tmp_path / "run", 4, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    step = torch.load(RunFolder(tmp_path / "run").last, weights_only=True)["step"]
    assert f"Stopped at step {step} of 4000; the state is saved." in said
    assert RunFolder(tmp_path / "run").read_log()[-1]["step"] == step


def test_a_second_signal_acts_at_once() -> None:
    # A shell's background job starts with SIGINT ignored, and what is ignored stays so; here it is not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.is_set()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_leaves_the_state_before_and_the_run_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan("digits/masked", options={"run.steps": 9, "run.batch": 16, "save.every": 3})
    run(planned, tmp_path / "whole", quiet=True)
    write, calls = torch.save, []

    def full(state: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half of a st")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FdlabError, match="No space left while writing") as caught:
        run(planned, tmp_path / "cut", quiet=True)
    assert caught.value.code == 4
    folder = RunFolder(tmp_path / "cut")
    assert torch.load(folder.last, weights_only=True)["step"] == 3
    assert sorted(path.name for path in folder.last.parent.iterdir()) == ["last.pt"]
    run(planned, tmp_path / "cut", quiet=True)
    results = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "cut")]
    assert results[0] == results[1]


def test_too_little_memory_names_a_batch_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds 20 images a part: 64 in 4 parts of 16 fit, 64, 32 do not."""

    planned = plan("digits/masked", options={"run.steps": 2, "run.batch": 64})
    kind = planned.task
    step = kind.step

    def limited(self, batch, number):  # type: ignore[no-untyped-def]
        if len(batch.labels) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, batch, number)

    monkeypatch.setattr(kind, "step", limited)
    with pytest.raises(FdlabError) as caught:
        run(planned, tmp_path / "run", quiet=True)
    assert caught.value.code == 4
    assert "16 images" in str(caught.value)
    assert "run.accumulate=4" in caught.value.fix
    fitting = plan("digits/masked", options={"run.steps": 2, "run.batch": 64, "run.accumulate": 4})
    assert training.run(fitting, tmp_path / "again", quiet=True)
    assert RunFolder(tmp_path / "again").finished


def test_a_full_disk_leaves_the_shared_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's distributed checkpoint wraps the writers' errors in one that is no Exception."""
    from torch.distributed.checkpoint import FileSystemWriter

    module = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(module.parameters())
    sharded.save(tmp_path, 3, module, optimizer, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    with pytest.raises(FdlabError, match="No space left while writing") as caught:
        sharded.save(tmp_path, 6, module, optimizer, {})
    assert caught.value.code == 4
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003.dcp"]
    assert sharded.load(tmp_path / "step-000000003.dcp", module, optimizer)["step"] == 3
