"""What a run is at a step, on disk and in memory: weights, optimiser, average, log, the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from fdlab.engine import sharded
from fdlab.engine.average import Average
from fdlab.engine.distributed import current
from fdlab.engine.hardware import peak
from fdlab.engine.log import Log
from fdlab.engine.optim import make_optimizer
from fdlab.engine.settings import Recipe
from fdlab.engine.trainable import Trainable
from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import replacing
from fdlab.records.run_folder import RunFolder


class State:
    """Everything that a checkpoint holds.

    ``checkpoint/last.pt`` continues the run; ``checkpoint/best.pt`` holds the weights (the averaged ones,
    where there is an average) of the best evaluation by ``save.best``.
    """

    def __init__(self, task: Trainable, recipe: Recipe, folder: RunFolder, *, sharded: bool = False) -> None:
        self.task, self.recipe, self.folder, self.sharded = task, recipe, folder, sharded
        self.ranks = current()
        self.optimizer = make_optimizer(task.module, recipe.optim)
        self.average = Average(task.module, recipe.optim.ema) if recipe.optim.ema else None
        device = str(next(task.module.parameters()).device)
        self.log = Log(
            folder,
            recipe.run.log_every,
            batch=recipe.run.batch,
            flops=getattr(task, "flops", 0.0),
            peak=lambda: peak(device, recipe.run.precision == "bf16"),
            tensorboard=recipe.run.tensorboard,
        )
        self.best: dict[str, Any] = {}

    def save(self, step: int) -> None:
        """Writes the whole state, atomically; of equal ranks the first one does."""
        rest = {"log": self.log.state(), "best": self.best}
        if self.sharded:
            sharded.save(self.folder.last.parent, step, self.task.module, self.optimizer, rest)
        else:
            self.ranks.first(lambda: self._write(step, rest))

    def _write(self, step: int, rest: dict[str, Any]) -> None:
        state = {
            "step": step,
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state if self.average else None,
        }
        with replacing(self.folder.last) as draft:
            torch.save({**state, **rest}, draft)

    def load(self) -> int:
        """Loads the last state where there is one; returns its step (0: a fresh start)."""
        path = sharded.newest(self.folder.last.parent) if self.sharded else self.folder.last
        if path is None or not path.exists():
            if self.folder.log.is_file():
                self._cut_log(0)
            return 0
        if self.sharded:
            state = sharded.load(path, self.task.module, self.optimizer)
        else:
            state = _read(path)
            self._fill(path, state)
        self.log.sums, self.log.count = state["log"]["sums"], state["log"]["count"]
        self.best = state.get("best") or {}
        if state["step"]:
            self._cut_log(state["step"])
        return int(state["step"])

    def _fill(self, path: Any, state: dict[str, Any]) -> None:
        try:
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average and state.get("average"):
                self.average.load(state["average"])
        except (RuntimeError, ValueError, KeyError) as error:  # a fork whose settings make another model
            raise FdlabError(
                f"The state in {path} does not fit these settings.",
                why=str(error).strip().splitlines()[-1].strip(),
                fix="Keep the model and the trained layers (steps, rate, data, views may change), or begin a new run.",
                code=USAGE,
            ) from None

    def _cut_log(self, step: int) -> None:
        self.ranks.first(lambda: self.folder.cut_log(step))

    def keep_best(self, step: int, result: dict[str, float]) -> None:
        """Keeps the present weights where the evaluation is better than every earlier one.

        Raises:
            FdlabError: code 2, there is no such number.
        """
        name = self.recipe.save.best
        if not name:
            return
        if name not in result:
            raise FdlabError(
                f"The evaluation has no {name!r} to keep the best state by.",
                why=f"It has {', '.join(result) or 'nothing'}.",
                fix="Correct save.best, or give the data it needs (data.test, data.validation).",
                code=USAGE,
            )
        sign = -1 if name.endswith("loss") else 1
        if sign * result[name] > self.best.get("score", -math.inf):
            self.best = {"score": sign * result[name], "step": step, "name": name, "value": result[name]}
            self.ranks.first(self._write_best)

    def _write_best(self) -> None:
        with replacing(self.folder.best) as draft:
            torch.save({**self.best, "task": self.task.state_dict()}, draft)

    def leave_result(self, result: dict[str, float], evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Puts the weights that are the run's result into the module; returns their evaluation."""
        if self.recipe.save.export == "best" and self.best:
            self.task.load_state_dict(_read(self.folder.best)["task"])
            return {**evaluate(), "best_step": float(self.best["step"])}
        if self.average:
            self.task.module.load_state_dict(self.average.state)
        return result


def saved_step(folder: RunFolder, strategy: str) -> int:
    """The step of the last state that a run of this ``strategy`` can go on from; 0: there is none."""
    if strategy == "fsdp":
        path = sharded.newest(folder.last.parent)
        return int(path.stem.removeprefix("step-")) if path else 0
    return int(_read(folder.last, mmap=True)["step"]) if folder.last.is_file() else 0


def _read(path: Any, *, mmap: bool = False) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise FdlabError(
            f"The checkpoint {path} cannot be read.",
            why=str(error).splitlines()[0],
            fix="Delete that file to start this run again from its first step.",
        ) from None
