"""A model is read in the middle of its training, and the training goes on as if nobody had looked.

Eval mode alone does not do: ``module.eval()`` and ``module.train()`` wake the parts that were frozen, a forward pass
draws random numbers, and the next dropout mask would be another one.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from fdlab.encoders.anatomy import at_rest
from fdlab.measures.directions import kept


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """All that a training depends on is afterwards what it was, also after an exception or Ctrl-C.

    Each part's training mode, gradients and whether they are wanted, buffers, and the random states of Python, numpy,
    torch and its devices. Inside, the module is in eval mode, has no gradients, and autocast is off. Weights are not
    copied: what moves them moves them back.
    """
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    with contextlib.ExitStack() as inside:
        inside.enter_context(_same_draws())
        inside.enter_context(kept(module))
        inside.callback(_give_back, gradients)
        for parameter, _ in gradients:
            parameter.grad = None
        inside.enter_context(at_rest(module))
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            inside.enter_context(torch.autocast(device, enabled=False))
        yield


def _give_back(gradients: list[tuple[nn.Parameter, torch.Tensor | None]]) -> None:
    for parameter, gradient in gradients:
        parameter.grad = gradient


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """The random states of Python, numpy, torch and every device that is in use, as they were before."""
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
