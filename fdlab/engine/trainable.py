"""What the engine needs of a task. It knows nothing else of one."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Trainable(Protocol):
    """One training step of some task, and what is kept and judged of it.

    A task may also have ``frozen`` (networks beside the trained one), ``views`` (rows a sample), ``steady`` (every step
    uses the same parameters), ``slow_copy`` (it averages whole weights itself) and ``flops`` (of one training image).
    """

    module: nn.ModuleDict

    def step(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this batch, and what else is worth logging."""
        ...

    def prepare(self, batch: Any, step: int) -> Any:
        """What is drawn for the whole batch (mixing of images), before it is computed in parts."""
        ...

    def train_mode(self, on: bool) -> None:
        """Training or evaluation mode; frozen parts stay in evaluation mode."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimiser (moving averages)."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Numbers on held-out data."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
