"""Evaluations of a run: the task's own and what the caller wants watched; the best state by a stated number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch

from fdlab.engine.settings import Recipe
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainable import Trainable


class Judging:
    """When a run is evaluated, and how.

    Args:
        watch: further numbers of the weights as they are, made by rank 0 in evaluation mode without gradient.
        every: steps between evaluations for ``watch``, beside those of ``run.evaluate_every``; 0: none.
    """

    def __init__(
        self,
        task: Trainable,
        recipe: Recipe,
        state: State,
        strategy: Strategy,
        watch: Callable[[], dict[str, float]] | None = None,
        every: int = 0,
    ) -> None:
        self.task, self.state, self.strategy, self.watch = task, state, strategy, watch
        self.intervals = [steps for steps in (recipe.run.evaluate_every, every if watch else 0) if steps]
        self.compiled = recipe.run.compile

    def due(self, step: int) -> bool:
        """Whether there is an evaluation after this many steps."""
        return any(step % steps == 0 for steps in self.intervals)

    def judge(self, step: int) -> dict[str, float]:
        """The evaluation of the averaged weights (or of the weights) is logged, the best state kept."""
        average = self.state.average
        with self.state.log.aside(), average.inside(self.task.module) if average else nullcontext():
            result = self.evaluate()
            self.state.keep_best(step, result)
        self.state.log.write({"step": step, **result})
        return result

    def finish(self, steps: int) -> dict[str, float]:
        """The last evaluation; the module is left with the weights that are the run's result."""
        return self.state.leave_result(self.judge(steps), self.evaluate)

    def evaluate(self) -> dict[str, float]:
        """All numbers, in evaluation mode; training mode is restored."""
        self.task.train_mode(False)
        # Compiled for the batch of a step: other shapes would be compiled anew.
        stance = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        try:
            with torch.no_grad(), stance:
                result = self.strategy.evaluate()
                if self.watch is not None:
                    watched: dict[str, float] | None = self.strategy.ranks.first(self.watch)
                    watched = self.strategy.ranks.told(watched)
                    result |= watched or {}
                return result
        finally:
            self.task.train_mode(True)
