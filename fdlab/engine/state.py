"""What a run is at a step, on disk and in memory: weights, optimiser, average, log, the best so far."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fdlab.engine import sealed, sharded
from fdlab.engine.average import Average
from fdlab.engine.distributed import current
from fdlab.engine.hardware import peak
from fdlab.engine.log import Log
from fdlab.engine.optim import make_optimizer
from fdlab.engine.settings import Recipe
from fdlab.engine.trainable import Trainable
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.records.run_folder import RunFolder

PARTS = {"step", "task", "optimizer", "log"}


class State:
    """Everything that a checkpoint holds.

    ``checkpoint/last.pt`` continues the run, ``checkpoint/previous.pt`` where that file was deleted;
    ``checkpoint/best.pt`` holds the weights (the averaged ones, where there is an average) of the best evaluation by
    ``save.best``.
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
        self.device, self.had_recipe = device, folder.recipe.is_file()

    def save(self, step: int) -> None:
        """Writes the whole state, atomically; of equal ranks the first one does."""
        if self.had_recipe and not self.folder.recipe.is_file():
            raise self.folder.gone()
        rest = {"log": self.log.state(), "best": self.best, "surroundings": surroundings(self.device)}
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
        sealed.write(self.folder.last, {**state, **rest}, before=self.folder.previous)

    def load(self) -> int:
        """Loads the last state where there is one; returns its step (0: a fresh start)."""
        path = sharded.newest(self.folder.last.parent) if self.sharded else self.folder.state
        if path is None:
            if self.folder.log.is_file():
                self._cut_log(0)
            return 0
        if self.sharded:
            state = sharded.load(path, self.task.module, self.optimizer)
        else:
            state = _read(path, self.folder)
            self._fill(path, state)
        self._same_surroundings(state.get("surroundings") or {})
        self.log.sums, self.log.count = state["log"]["sums"], state["log"]["count"]
        self.best = state.get("best") or {}
        if state["step"]:
            self._cut_log(state["step"])
        return int(state["step"])

    def _same_surroundings(self, before: dict[str, str]) -> None:
        """Warns where the run goes on under other threads, device or library than its state was made under."""
        now = surroundings(self.device)
        changed = [
            f"{name} {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]
        ]
        if changed and self.ranks.leader:
            warnings.warn(
                f"This run goes on under other conditions ({'; '.join(changed)}): its numbers are no longer, bit for "
                "bit, those of an uninterrupted run.",
                stacklevel=2,
            )

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
        sealed.write(self.folder.best, {**self.best, "task": self.task.state_dict()})

    def leave_result(self, result: dict[str, float], evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Puts the weights that are the run's result into the module; returns their evaluation."""
        if self.recipe.save.export == "best" and self.best:
            self.task.load_state_dict(_read(self.folder.best, self.folder)["task"])
            return {**evaluate(), "best_step": float(self.best["step"])}
        if self.average:
            self.task.module.load_state_dict(self.average.state)
        return result


def saved_step(folder: RunFolder, strategy: str) -> int:
    """The step of the last state that a run of this ``strategy`` can go on from; 0: there is none."""
    if strategy == "fsdp":
        path = sharded.newest(folder.last.parent)
        return int(path.stem.removeprefix("step-")) if path else 0
    return int(_read(folder.state, folder)["step"]) if folder.state else 0


def _read(path: Path, folder: RunFolder) -> dict[str, Any]:
    again = f"delete {folder.last.parent} to start this run again from its first step"
    if path == folder.last and folder.previous.is_file() and not sealed.damage(folder.previous):
        step = torch.load(folder.previous, map_location="cpu", weights_only=True, mmap=True)["step"]
        instead = (
            f"Delete {path} and give the same command again: it goes on from the state before, of step {step} "
            f"({folder.previous}); or {again}."
        )
    elif path == folder.best:
        instead = f"Set save.export=last in a new folder to take the last state, or {again}."
    else:
        instead = f"{again[0].upper()}{again[1:]}."
    state = sealed.read(path, instead=instead)
    if path != folder.best and not (isinstance(state, dict) and set(state) >= PARTS and isinstance(state["step"], int)):
        raise FdlabError(
            f"The checkpoint {path} cannot be read.", "It lacks a part of a run's state.", instead, code=NOT_UNDERSTOOD
        )
    return state


def surroundings(device: str) -> dict[str, str]:
    """What must be equal for a continued run to have the numbers of an uninterrupted one, bit for bit."""
    return {"threads": str(torch.get_num_threads()), "device": device, "torch": str(torch.__version__)}
