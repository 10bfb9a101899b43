"""The one training loop. The step is the only clock.

What a step computes depends on the weights, the optimiser's state and (seed, step) alone: the batch
comes from (seed, step), and the global generators are seeded with (seed, step) before it, so drop path
and masks need no saved state. A checkpoint is therefore weights + optimiser + the task's own state +
step, and going on after a kill gives the same numbers as never having stopped (bitwise on a CPU).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fdlab.engine.optim import learning_rate, make_optimizer, set_learning_rate
from fdlab.engine.recipe import Recipe
from fdlab.errors import FAILED, INTERRUPTED, FdlabError
from fdlab.progress import Progress
from fdlab.randomness import seed_for
from fdlab.records.atomic import replacing
from fdlab.records.run_folder import RunFolder


class Trainable(Protocol):
    """What the loop needs of a task."""

    module: nn.ModuleDict

    def step(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this batch, and what else is worth logging."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimiser (moving averages)."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Numbers on held-out data."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Callback = Callable[[int, dict[str, float]], None]


def train(
    task: Trainable,
    batches: Callable[[int], Iterable[Any]],
    recipe: Recipe,
    folder: RunFolder,
    *,
    steps: int,
    progress: Progress | None = None,
    on_step: Iterable[Callable[[int], None]] = (),
) -> dict[str, float]:
    """Runs the task up to ``steps`` and returns the last evaluation with the final loss.

    Args:
        task: built and on its device.
        batches: ``batches(start)`` yields the batches of the steps from ``start`` on.
        recipe: its ``run``, ``optim`` and ``save`` tables are read here.
        folder: where the state is kept; a state there is continued.
        steps: total number of optimiser steps.
        progress: told of each step.
        on_step: called with each finished step's number (snapshots, a parent's progress bar).

    Raises:
        FdlabError: a loss that is not finite (the last good state stays; the step is named), or an
            interruption (code 130, the state is saved).
    """
    optimizer = make_optimizer(task.module, recipe.optim)
    log = Log(folder, recipe.run.log_every)
    start = load_state(task, optimizer, log, folder)
    if start:
        folder.cut_log(start)
        if progress:
            progress.done = start
    task.module.train()
    with stop_requests() as stop:
        for step, batch in enumerate(batches(start), start):
            torch.manual_seed(seed_for(recipe.run.seed, "step", step))
            lr = learning_rate(step, steps, recipe.optim)
            loss, metrics = task.step(batch, step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_gradients(task.module, recipe.optim.clip)
            set_learning_rate(optimizer, lr)
            optimizer.step()
            task.after_step(step)
            done = step + 1
            log.add(step, {"loss": loss.detach(), **metrics, "grad_norm": norm}, lr, last=done == steps)
            if progress:
                progress.advance(note=log.note)
            every = recipe.run.evaluate_every
            if every and done % every == 0 and done < steps:
                log.write({"step": done, **evaluated(task)})
            stopping = stop.is_set()
            if done % recipe.save.every == 0 or done == steps or stopping:
                log.check_finite()
                save_state(task, optimizer, log, folder, done)
            for callback in on_step:
                callback(done)
            if stopping and done < steps:
                raise FdlabError(
                    f"Stopped at step {done} of {steps}; the state is saved.",
                    "",
                    "Give the same command again to continue.",
                    code=INTERRUPTED,
                )
    result = evaluated(task)
    log.write({"step": steps, **result})
    return {"final_loss": log.tail_loss(steps), **result}


def evaluated(task: Trainable) -> dict[str, float]:
    """The task's evaluation in eval mode; training mode is restored."""
    task.module.eval()
    try:
        with torch.no_grad():
            return task.evaluate()
    finally:
        task.module.train()


def clip_gradients(module: nn.Module, largest: float) -> Tensor:
    """Scales the gradients to a norm of at most ``largest`` (0: leaves them) and returns their norm."""
    return nn.utils.clip_grad_norm_(module.parameters(), largest or math.inf, foreach=True)


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
        self.folder.append_log(line)

    def tail_loss(self, steps: int) -> float:
        """Mean logged loss of the last tenth of the run."""
        lines = [line for line in self.folder.read_log() if line.get("loss") is not None]
        tail = [line["loss"] for line in lines if line["step"] > 0.9 * steps] or [line["loss"] for line in lines[-1:]]
        return sum(tail) / len(tail) if tail else math.nan

    def state(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}


def save_state(task: Trainable, optimizer: torch.optim.Optimizer, log: Log, folder: RunFolder, step: int) -> None:
    """Writes the whole state, atomically."""
    state = {
        "step": step,
        "task": task.state_dict(),
        "optimizer": optimizer.state_dict(),
        "log": log.state(),
    }
    with replacing(folder.last) as draft:
        torch.save(state, draft)


def load_state(task: Trainable, optimizer: torch.optim.Optimizer, log: Log, folder: RunFolder) -> int:
    """Loads the last state where there is one; returns its step (0: a fresh start)."""
    if not folder.last.is_file():
        if folder.log.is_file():
            folder.cut_log(0)
        return 0
    try:
        state = torch.load(folder.last, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FdlabError(
            f"The checkpoint {folder.last} cannot be read.",
            str(error).splitlines()[0],
            "Delete that file to start this run again from its first step.",
        ) from None
    task.load_state_dict(state["task"])
    optimizer.load_state_dict(state["optimizer"])
    log.sums, log.count = state["log"]["sums"], state["log"]["count"]
    return int(state["step"])


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal acts at once. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # A signal that is ignored stays so: a worker leaves Ctrl-C to its parent.
    both = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in both.items() if handler is not signal.SIG_IGN}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
