"""Random directions in weight space, each filter as long as the model's own (Li et al. 2018, arXiv 1712.09913).

A filter is a row of a linear layer (of a fused qkv: each q, k and v row alone) or an output channel of a
convolution. Biases, gains, tokens and position tables stay where they are unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fdlab.randomness import seed_for

_TOKENS = ("cls_token", "dist_token", "mask_token", "reg_token", "pos_embed")
_TABLES = ("relative_position_bias_table", "rel_pos_bias", "relative_bias")


def filter_kind(name: str, parameter: Tensor) -> str:
    """``filter`` (its first axis counts filters), ``token``, ``table`` or ``vector`` (at most one axis).

    >>> filter_kind("attn.qkv.weight", torch.zeros(6, 2)), filter_kind("attn.qkv.bias", torch.ones(6))
    ('filter', 'vector')
    """
    parts = name.split(".")
    if parameter.dim() <= 1:
        return "vector"
    if parts[-1] in _TOKENS:
        return "token"
    return "table" if any(part in _TABLES for part in parts) else "filter"


def normalised(weight: Tensor, direction: Tensor, kind: str = "filter") -> Tensor:
    """``direction`` with the norm of every filter of ``weight``; the direction of a zero filter is zero.

    Filters: rows over the first axis; tokens: rows along the last axis; tables: columns, one a head.

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])).tolist()
    [[0.0, 5.0], [0.0, 0.0]]
    """
    axes = {"token": (-1,), "table": (0,)}.get(kind, tuple(range(1, weight.dim())))
    length = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    drawn = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * torch.where(drawn > 0, length / drawn.clamp_min(torch.finfo(drawn.dtype).tiny), 0.0)


@torch.no_grad()
def filter_direction(
    parameters: Mapping[str, Tensor], seed: int, number: int = 0, *, tokens: bool = False, tables: bool = False
) -> dict[str, Tensor]:
    """One Gaussian filter-normalised direction, a function of (seed, number, parameter name) alone.

    Parameters that do not move (vectors; tokens and tables unless asked for; all that is not floating) are left
    out. Drawn on the CPU, so that every device sees the same numbers. A tensor under two names moves once.
    """
    moved = {"filter", *(["token"] if tokens else []), *(["table"] if tables else [])}
    direction: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, parameter in parameters.items():
        kind = filter_kind(name, parameter)
        if kind not in moved or not parameter.is_floating_point() or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        generator = torch.Generator().manual_seed(seed_for(seed, f"direction/{name}", number))
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
        direction[name] = normalised(parameter.detach(), draw, kind)
    return direction


def share_moved(parameters: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> float:
    """The share of all parameters that a direction moves."""
    total = sum(p.numel() for p in parameters.values())
    return sum(int((d != 0).sum()) for d in direction.values()) / max(total, 1)


class Place:
    """A model's weights, moved to any point and back; made by ``moving``."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def go(self, *steps: tuple[float, Mapping[str, Tensor]]) -> None:
        """Moves the weights to start + sum of amount x direction, from the saved start, so that nothing drifts."""
        self.back()
        for amount, direction in steps:
            if amount:  # the start itself stays exact
                names = list(direction)
                torch._foreach_add_([self.parameters[n] for n in names], [direction[n] for n in names], alpha=amount)

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the named weights to ``weights``, bit by bit."""
        torch._foreach_copy_([self.parameters[name] for name in weights], list(weights.values()))

    @torch.no_grad()
    def back(self) -> None:
        """Sets all weights to the start again, bit by bit."""
        torch._foreach_copy_(list(self.parameters.values()), list(self.start.values()))


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Buffers, training modes and gradient flags are afterwards what they were, also after an exception or Ctrl-C.

    The weights are ``moving``'s matter: a second copy of them would cost as much as the model.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    modes = [(part, part.training) for part in module.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for part, training in modes:
            part.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def moving(parameters: Mapping[str, Tensor]) -> Iterator[Place]:
    """Weights that may be moved inside and are bit-identical afterwards, also after an exception or Ctrl-C."""
    place = Place(parameters)
    try:
        yield place
    finally:
        try:
            place.back()
        except BaseException:  # a second Ctrl-C meanwhile
            place.back()
            raise
