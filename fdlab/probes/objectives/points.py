"""An objective at points around the weights, each evaluated once and kept at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.errors import OUT_OF_SPACE, FdlabError
from fdlab.measures.directions import Place
from fdlab.probes.objectives.objective import Objective
from fdlab.probes.probe import expect


class Points:
    """Evaluates points once each; what was evaluated is appended to ``points.jsonl`` at once."""

    def __init__(self, objective: Objective, place: Place, folder: Path | None, progress: Any) -> None:
        self.objective, self.place, self.progress = objective, place, progress
        self.known: dict[str, tuple[float, float, list[float]]] = {}  # loss, accuracy, losses of the images
        self.where: dict[str, tuple[float, float]] = {}
        self.not_finite = 0
        self.file = None if folder is None else folder / "points.jsonl"
        if self.file is not None and self.file.is_file():
            self._read(self.file)

    def _read(self, file: Path) -> None:
        """What an earlier start has left; a line that a kill cut short is taken off the file."""
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(file, len(whole))
        for line in whole.decode().splitlines():
            key, loss, accuracy, losses = json.loads(line)
            self.known[key] = (_number(loss), _number(accuracy), [_number(value) for value in losses])

    def plan(self, count: int) -> None:
        """Progress is counted in points."""
        expect(self.progress, count)

    def at(
        self, key: str, where: tuple[float, float], *steps: tuple[float, Mapping[str, Tensor]]
    ) -> tuple[float, float]:
        """(mean loss, accuracy) at start + steps; NaN where the loss is not finite."""
        return self._kept(key, where, lambda: self.place.go(*steps))

    def of(self, key: str, where: tuple[float, float], weights: Mapping[str, Tensor]) -> tuple[float, float]:
        """The same at given weights."""
        return self._kept(key, where, lambda: self.place.take(weights))

    def _kept(self, key: str, where: tuple[float, float], go: Any) -> tuple[float, float]:
        self.where[key] = where
        if key not in self.known:
            go()
            self.known[key] = self._evaluated()
            self._store(key)
        loss, accuracy, _ = self.known[key]
        self.not_finite += not math.isfinite(loss)
        if self.progress is not None:
            self.progress.advance()
        return loss, accuracy

    @torch.no_grad()
    def _evaluated(self) -> tuple[float, float, list[float]]:
        try:
            evaluated = [self.objective.evaluate(batch) for batch in self.objective.batches]
        except torch.OutOfMemoryError as error:
            raise FdlabError(
                "The device has too little memory for one forward pass.",
                str(error).splitlines()[0],
                "Give a smaller --micro-batch; points so far are kept, the same command continues.",
                OUT_OF_SPACE,
            ) from None
        losses = torch.cat([part for part, _ in evaluated]).double().cpu()
        right = [correct for _, correct in evaluated if correct is not None]
        accuracy = float(torch.cat(right).double().mean()) if right else math.nan
        mean = float(losses.mean())
        return (mean if math.isfinite(mean) else math.nan), accuracy, losses.tolist()

    def _store(self, key: str) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        loss, accuracy, losses = self.known[key]
        line = json.dumps([key, _plain(loss), _plain(accuracy), [_plain(value) for value in losses]])
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def arrays(self) -> dict[str, np.ndarray]:
        """``x`` and ``y`` (points,), ``losses`` (points, n), in the order in which they were asked for."""
        return {
            "x": np.array([x for x, _ in self.where.values()]),
            "y": np.array([y for _, y in self.where.values()]),
            "losses": np.array([self.known[key][2] for key in self.where], dtype=np.float32),
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
