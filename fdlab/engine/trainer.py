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
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fdlab.data.sending import worker_deaths
from fdlab.engine.distributed import current
from fdlab.engine.judging import Judging
from fdlab.engine.optim import learning_rate, set_learning_rate
from fdlab.engine.settings import Recipe
from fdlab.engine.shares import share_drop_path, sharing
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainable import Trainable
from fdlab.errors import INTERRUPTED, FdlabError
from fdlab.progress import Progress
from fdlab.randomness import seed_for
from fdlab.records.run_folder import RunFolder

STOPPING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


def train(
    task: Trainable,
    batches: Callable[[int], Iterable[Any]],
    recipe: Recipe,
    folder: RunFolder,
    *,
    steps: int,
    progress: Progress | None = None,
    on_step: Iterable[Callable[[int], None]] = (),
    watch: Callable[[], dict[str, float]] | None = None,
    watch_every: int = 0,
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
        watch, watch_every: further numbers of each evaluation, and steps between evaluations for them (``Judging``).

    Raises:
        FdlabError: a loss that is not finite (the last good state stays; the step is named), an
            interruption (code 130, the state is saved), or a loader's process that died.
    """
    share_drop_path(task.module)
    if recipe.run.checkpoint_blocks:
        checkpoint_blocks(task.module)
    strategy = Strategy(task, recipe)
    state = State(task, recipe, folder, sharded=strategy.sharded)
    judging = Judging(task, recipe, state, strategy, watch, watch_every)
    start = state.load()
    if progress:
        progress.done = start
    task.train_mode(True)
    with worker_deaths(), closing(state.log.board), stop_requests() as stop:
        for step, batch in enumerate(state.log.waiting(batches(start)), start):
            lr = learning_rate(step, steps, recipe.optim)
            values = one_step(task, batch, step, lr, recipe, state, strategy)
            done = step + 1
            state.log.add(step, values, lr, last=done == steps)
            if progress:
                progress.advance(note=state.log.note)
            stopping = _between_steps(done, steps, recipe, state, judging, stop)
            with state.log.aside():
                for callback in on_step:
                    callback(done)
            if stopping and done < steps:
                raise FdlabError(
                    f"Stopped at step {done} of {steps}; the state is saved.",
                    fix="Give the same command again to continue.",
                    code=INTERRUPTED,
                )
        result = {"final_loss": state.log.tail_loss(steps), **judging.finish(steps)}
    strategy.unshard()
    return result


def _between_steps(
    done: int, steps: int, recipe: Recipe, state: State, judging: Judging, stop: threading.Event
) -> bool:
    """Evaluates and saves where it is time to; returns whether some rank was asked to stop."""
    if judging.due(done) and done < steps:
        judging.judge(done)
    stopping = current().any(stop.is_set())
    if done % recipe.save.every == 0 or done == steps or stopping:
        state.log.check_finite()  # first: a state with weights that are no numbers must not replace a good one
        with state.log.aside():
            state.save(done)
    return stopping


def one_step(
    task: Trainable, batch: Any, step: int, lr: float, recipe: Recipe, state: State, strategy: Strategy
) -> dict[str, Tensor]:
    """The gradient of the whole batch, in ``run.accumulate`` parts a rank, and the optimiser's step with rate ``lr``.

    Every part begins with the step's seed and draws for the whole batch (``shares``), so that the number
    of parts and ranks changes nothing but the order of the sums.
    """
    batch = task.prepare(batch, step)
    state.optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    parts = recipe.run.accumulate
    shares = strategy.ranks.shares(recipe.run.batch, parts)
    for number, share in enumerate(shares, 1):
        # Before every part and not once a step: each part draws for the whole batch and takes its slice.
        torch.manual_seed(seed_for(recipe.run.seed, "step", step))
        with sharing(share), strategy.synchronising(last=number == parts):
            loss, metrics = strategy.step(strategy.ranks.part_of(batch, share, recipe.run.batch), step)
            (loss / parts).backward()
        for name, value in {"loss": loss, **metrics}.items():
            part = value.detach() / parts
            totals[name] = totals[name] + part if name in totals else part
    totals = strategy.ranks.mean(totals)
    totals["grad_norm"] = clip_gradients(task.module, recipe.optim.clip)
    set_learning_rate(state.optimizer, lr)
    state.optimizer.step()
    task.after_step(step)
    if state.average:
        state.average.update(task.module)
    return totals


def checkpoint_blocks(module: nn.ModuleDict) -> None:
    """Activations inside a block are computed again in the backward pass, where the class can do so."""
    for part in module.values():
        if recompute := getattr(part, "set_grad_checkpointing", None):
            recompute(True)


def clip_gradients(module: nn.Module, largest: float) -> Tensor:
    """Scales the gradients to a norm of at most ``largest`` (0: leaves them) and returns their norm."""
    together = True if next(module.parameters()).device.type in ("cpu", "cuda") else None  # elsewhere torch decides
    norm = nn.utils.clip_grad_norm_(module.parameters(), largest or math.inf, foreach=together)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM or Slurm's SIGUSR1 sets; a second signal acts at once. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # A signal that is ignored stays so: a worker leaves Ctrl-C to its parent.
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for each, handler in before.items():  # the second signal finds the handlers that were there
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
