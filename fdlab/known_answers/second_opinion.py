"""A second opinion on a line through weight space: the package loss-landscapes beside the landscape probe's own steps.

The model is one linear layer under least squares, whose inputs have X'X / n = diag(2^-j): with the minimum at the end
of the line, the loss at a share a of the way is (1 - a)^2 sum_j 2^-j |d_j|^2 / 2, d the change of the weights.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fdlab.known_answers.curvature import cosine_inputs
from fdlab.measures.directions import moving

TOLERANCE = 1e-5  # relative to the loss at the start; float32
DIFFERENCES = (
    "linear_interpolation has no value for the first model: it takes a step before it measures. Ours begins with the "
    "model itself.",
    "random_line draws every number between 0 and 1, so that each weight can only grow. Our directions are Gaussian "
    "and are walked to both sides.",
    "random_line divides by its distance: distance=0.1 goes ten lengths of all weights away. Our span is in lengths of "
    "each filter.",
    "random_line moves biases, gains and position tables too. Ours leaves them where they are.",
)


def two_layers() -> tuple[nn.Linear, nn.Linear, Tensor, Tensor]:
    """The layer at the start of the line and at its end, inputs (64, 12), and targets (64, 5) that the end meets."""
    inputs = cosine_inputs().float()
    start, end = nn.Linear(12, 5, bias=False), nn.Linear(12, 5, bias=False)
    with torch.no_grad():
        start.weight.copy_(torch.linspace(-1, 1, 60).view(5, 12))
        end.weight.copy_(torch.linspace(2, -1, 60).view(5, 12))
        return start, end, inputs, end(inputs)


def second_opinion(steps: int = 5) -> pd.DataFrame:
    """The loss along a line whose loss is known, measured twice.

    Args:
        steps: of the line; ours has a value at each end too.

    Returns:
        ``way`` (the share of the way, 0 to 1), ``exact``, ``ours``, ``loss_landscapes`` (NaN where it has no value)
        and ``wrong``: whether ours is off by more than the tolerance.
    """
    from loss_landscapes import linear_interpolation
    from loss_landscapes.metrics import Loss

    start, end, inputs, targets = two_layers()

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(1).mean()

    change = (end.weight - start.weight).detach()
    whole = float((0.5 * 2.0 ** -torch.arange(12.0) * change.square().sum(0)).sum())
    ways = np.linspace(0, 1, steps + 1)
    ours = []
    line = copy.deepcopy(start)
    with moving({"weight": line.weight}) as place, torch.no_grad():
        for way in ways:
            place.go((float(way), {"weight": change}))
            ours.append(float(criterion(line(inputs), targets)))
    theirs = linear_interpolation(start, end, Loss(criterion, inputs, targets), steps=steps, deepcopy_model=True)
    exact = (1 - ways) ** 2 * whole
    return pd.DataFrame(
        {
            "way": ways,
            "exact": exact,
            "ours": ours,
            "loss_landscapes": [float("nan"), *map(float, theirs)],
            "wrong": np.abs(np.array(ours) - exact) > TOLERANCE * whole,
        }
    )
