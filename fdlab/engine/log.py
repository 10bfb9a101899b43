"""The run's log: means over a window of steps, one JSON line a window, and the same numbers as TensorBoard events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from fdlab.engine.distributed import current
from fdlab.engine.hardware import most_memory, queued_work
from fdlab.errors import Diverged
from fdlab.records.run_folder import RunFolder

T = TypeVar("T")


class Log:
    """Means over a window of steps, kept on the device until the window is full.

    The step of the first loss that was not finite is kept too, without waiting for the device each step.

    Args:
        every: steps a window. batch: images a step, over all ranks. flops: of one training image.
        peak: FLOP/s of one device at most. tensorboard: events beside the log, where it is installed.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        *,
        batch: int = 0,
        flops: float = 0.0,
        peak: Callable[[], float] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.every, self.batch, self.flops, self.peak = folder, every, batch, flops, peak
        self.board = Board(folder.path / "tensorboard", tensorboard)
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.first_bad: Tensor | None = None
        self.note = ""
        self.clock = time.monotonic()
        self.steps = 0  # since the clock was set; a start in the middle of a window has fewer than it counts
        self.waited = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches. The time of getting one counts as waiting, unless a GPU had work all the while."""
        iterator = iter(batches)
        while True:
            before, work = time.monotonic(), queued_work()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if work is None or work.query():
                self.waited += time.monotonic() - before
            yield batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Stands around work that is no training (evaluating, saving), whose time does not count."""
        before = time.monotonic()
        yield
        self.clock += time.monotonic() - before

    def add(self, step: int, values: dict[str, Tensor], lr: float, *, last: bool = False) -> None:
        """One step's values; a full window, or the run's last one, is written."""
        for name, value in values.items():
            value = value.detach()
            value = value.float() if value.device.type == "mps" else value.double()  # Apple's GPU has no double
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count, self.steps = self.count + 1, self.steps + 1
        good = torch.isfinite(values["loss"]) & torch.isfinite(values["grad_norm"])
        bad = torch.where(good, math.inf, float(step))
        self.first_bad = bad if self.first_bad is None else torch.minimum(self.first_bad, bad)
        if (step + 1) % self.every == 0 or last:
            self.check_finite()
            means = {name: float(total) / self.count for name, total in self.sums.items()}
            seconds = time.monotonic() - self.clock
            self.write({"step": step + 1, **means, "lr": lr, "seconds": round(seconds, 3), **self.speed(seconds)})
            self.note = f"loss {means['loss']:.4f}"
            self.sums, self.count, self.clock = {}, 0, time.monotonic()
            self.steps, self.waited = 0, 0.0

    def speed(self, seconds: float) -> dict[str, float]:
        """images/s and TFLOP/s of all ranks, MFU, the share of the time that waited for data, peak memory in GB.

        MFU: FLOPs by formula over what the devices could do at most (``hardware.peak``). On a GPU the numbers are
        those of the whole window, whose end waits for the device.
        """
        numbers = {}
        if self.batch and seconds > 0:
            rate = self.batch * self.steps / seconds
            numbers = {"images_per_second": round(rate, 1), "data_wait": round(min(self.waited / seconds, 1.0), 4)}
            if self.flops:
                numbers["tflops"] = round(rate * self.flops / 1e12, 6)
                if self.peak is not None:
                    numbers["mfu"] = round(rate * self.flops / (self.peak() * current().ranks), 5)
        return {**numbers, "memory_gb": round(most_memory() / 1e9, 3)}

    def check_finite(self) -> None:
        """Raises Diverged where a loss or gradient was not finite; reading it waits for the device."""
        if self.first_bad is not None and math.isfinite(step := float(self.first_bad)):
            last = self.folder.last
            raise Diverged(
                f"The loss or its gradient at step {int(step)} is not a number.",
                why=f"The last good state is kept in {last}." if last.is_file() else "No state had been saved yet.",
                fix="Lower optim.lr or optim.clip in a new folder; the data or the teacher may hold bad values.",
            )

    def write(self, line: dict[str, Any]) -> None:
        """Appends one line to metrics.jsonl and to the events; rank 0 alone does so."""
        if current().leader:
            self.folder.append_log(line)
            self.board.add(line)

    def tail_loss(self, steps: int) -> float:
        """Mean logged loss of the last tenth of the run."""
        lines = [line for line in self.folder.read_log() if line.get("loss") is not None]
        tail = [line["loss"] for line in lines if line["step"] > 0.9 * steps] or [line["loss"] for line in lines[-1:]]
        return sum(tail) / len(tail) if tail else math.nan

    def state(self) -> dict[str, Any]:
        """The unfinished window, for a checkpoint."""
        return {"sums": dict(self.sums), "count": self.count}


class Board:
    """Writes each log line's numbers to ``folder``; does nothing where there is no tensorboard or it is off.

    Events of steps that a continued run makes again are hidden by the first new one.
    """

    def __init__(self, folder: Path, on: bool) -> None:
        self.folder = folder
        self.on = on and find_spec("tensorboard") is not None
        self.writer: Any = None

    def add(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if not self.on:
            return
        step = int(line["step"])
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in line.items():
            if name != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Puts everything on disk."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
