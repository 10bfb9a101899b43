"""The log: how fast, of what it could be, how long it waited; without what is no training."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fdlab.engine import log as logging
from fdlab.engine.log import Board, Log
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

VALUES = {"loss": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)}


def prepared(folder: Path) -> RunFolder:
    own = RunFolder(folder)
    own.prepare("task = 'toy'")
    return own


def slow(steps: int = 2) -> Iterator[int]:
    for step in range(steps):
        time.sleep(0.05)
        yield step


def test_the_log_says_how_fast_it_was(tmp_path: Path) -> None:
    log = Log(prepared(tmp_path), every=2, batch=50, flops=2e9, peak=lambda: 4e12)
    for step in log.waiting(slow()):
        log.add(step, VALUES, 0.1)
    (line,) = RunFolder(tmp_path).read_log()
    assert 100 / 0.4 < line["images_per_second"] <= 100 / 0.1
    assert line["tflops"] == pytest.approx(line["images_per_second"] * 2e-3, rel=1e-3)
    assert line["mfu"] == pytest.approx(line["tflops"] / 4, rel=0.02, abs=1e-5)
    assert 0.5 < line["data_wait"] <= 1
    assert 0.01 < line["memory_gb"] < 100


def test_what_is_no_training_does_not_count(tmp_path: Path) -> None:
    log = Log(prepared(tmp_path), every=2, batch=50)
    for step in log.waiting(slow()):
        with log.aside():
            time.sleep(0.2)
        log.add(step, VALUES, 0.1)
    (line,) = RunFolder(tmp_path).read_log()
    assert line["images_per_second"] > 100 / 0.4


@pytest.mark.parametrize(("done", "waited"), [(True, True), (False, False)])
def test_a_gpu_that_still_has_work_does_not_wait_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool, waited: bool
) -> None:
    class Work:
        def query(self) -> bool:
            return done

    monkeypatch.setattr(logging, "queued_work", Work)
    log = Log(prepared(tmp_path), every=2, batch=50)
    for step in log.waiting(slow()):
        log.add(step, VALUES, 0.1)
    (line,) = RunFolder(tmp_path).read_log()
    assert (line["data_wait"] > 0.5) is waited


def test_a_run_states_its_share_of_a_measured_peak(tmp_path: Path) -> None:
    own: dict[str, Any] = {"run.steps": 4, "run.batch": 8, "run.log_every": 2, "data.source": "digits#train[:32]"}
    folder = RunFolder(run(plan("digits/masked", options=own), tmp_path / "m", quiet=True))
    lines = [line for line in folder.read_log() if "mfu" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["mfu"] == pytest.approx(line["tflops"] / folder.facts()["peak_tflops"], rel=0.05)
        assert 0 < line["mfu"] < 1


# ---- TensorBoard


class Writer:
    """A stand-in that notes what it was told."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self.told: list[Any] = [purge_step]

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.told.append((name, value, step))

    def close(self) -> None:
        self.told.append("closed")


def test_numbers_become_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A continued run hides the events of steps that it makes again."""
    fake: Any = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(logging, "find_spec", lambda _: True)
    board = Board(tmp_path, on=True)
    board.add({"step": 30, "loss": 0.5, "note": "words"})
    writer = board.writer
    board.add({"step": 40, "loss": 0.25})
    board.close()
    assert writer.told == [30, ("loss", 0.5, 30), ("loss", 0.25, 40), "closed"]


@pytest.mark.parametrize(("installed", "on"), [(False, True), (True, False)])
def test_no_tensorboard_no_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, on: bool) -> None:
    monkeypatch.setattr(logging, "find_spec", lambda _: installed or None)
    board = Board(tmp_path, on=on)
    board.add({"step": 1, "loss": 1.0})
    board.close()
    assert board.writer is None


def test_events_of_a_run_can_be_read_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    own: dict[str, Any] = {"run.steps": 4, "run.batch": 8, "run.log_every": 2, "data.source": "digits#train[:32]"}
    folder = RunFolder(run(plan("digits/masked", options=own), tmp_path / "m", quiet=True))
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    lines = [(line["step"], line["loss"]) for line in folder.read_log() if "loss" in line]
    assert [step for step, _ in found] == [step for step, _ in lines] == [2, 4]
    assert [value for _, value in found] == pytest.approx([value for _, value in lines], rel=1e-6)
