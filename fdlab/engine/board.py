"""The log's numbers as TensorBoard events, where tensorboard is installed (extra ``track``)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any


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
        """Everything is on disk."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
