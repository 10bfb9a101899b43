"""The run's log: means over a window of steps, one JSON line a window."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from fdlab.engine.distributed import current
from fdlab.errors import FAILED, FdlabError
from fdlab.records.run_folder import RunFolder


class Log:
    """Means over a window of steps, kept on the device until the window is full.

    The step of the first loss that was not finite is kept too, without waiting for the device each step.
    """

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder, self.every = folder, every
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.first_bad: Tensor | None = None
        self.note = ""
        self.clock = time.monotonic()

    def add(self, step: int, values: dict[str, Tensor], lr: float, *, last: bool = False) -> None:
        """One step's values; a full window, or the run's last one, is written."""
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        good = torch.isfinite(values["loss"]) & torch.isfinite(values["grad_norm"])
        bad = torch.where(good, math.inf, float(step))
        self.first_bad = bad if self.first_bad is None else torch.minimum(self.first_bad, bad)
        if (step + 1) % self.every == 0 or last:
            self.check_finite()
            means = {name: float(total) / self.count for name, total in self.sums.items()}
            seconds = time.monotonic() - self.clock
            self.write({"step": step + 1, **means, "lr": lr, "seconds": round(seconds, 3)})
            self.note = f"loss {means['loss']:.4f}"
            self.sums, self.count, self.clock = {}, 0, time.monotonic()

    def check_finite(self) -> None:
        """Raises where a loss or gradient since the last look was not finite."""
        if self.first_bad is not None and math.isfinite(step := float(self.first_bad)):
            last = self.folder.last
            raise FdlabError(
                f"The loss or its gradient at step {int(step)} is not a number.",
                f"The last good state is kept in {last}." if last.is_file() else "No state had been saved yet.",
                "Lower optim.lr or optim.clip in a new folder; the data or the teacher may hold bad values.",
                code=FAILED,
            )

    def write(self, line: dict[str, Any]) -> None:
        if current().leader:
            self.folder.append_log(line)

    def tail_loss(self, steps: int) -> float:
        """Mean logged loss of the last tenth of the run."""
        lines = [line for line in self.folder.read_log() if line.get("loss") is not None]
        tail = [line["loss"] for line in lines if line["step"] > 0.9 * steps] or [line["loss"] for line in lines[-1:]]
        return sum(tail) / len(tail) if tail else math.nan

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}
