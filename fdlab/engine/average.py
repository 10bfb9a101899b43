"""An exponential moving average of the weights, in float32, beside the trained ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """``average = decay * average + (1 - decay) * weights`` after each step; counters and the like are copied.

    Args:
        module: whose state is averaged; the average starts at its present state.
        decay: between 0 and 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's weights."""
        now = module.state_dict()
        moving = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.state[n] for n in moving], [now[n] for n in moving], 1 - self.decay)
        for name, tensor in self.state.items():
            if not tensor.is_floating_point():
                tensor.copy_(now[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over the average that an earlier start saved."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged weights while this context lasts."""
        trained = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield
        finally:
            module.load_state_dict(trained)
