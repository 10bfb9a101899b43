"""A ridge regression between token sets: how much of a teacher can be read out of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PositionRidge:
    """A linear map between tokens, fitted on what differs between images at each position."""

    source_mean: Tensor
    target_mean: Tensor
    weight: Tensor

    def predict(self, source: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, D)."""
        return self.target_mean + (source.double() - self.source_mean) @ self.weight


def fit_position_ridge(source: Tensor, target: Tensor, strength: float = 1e-3) -> PositionRidge:
    """Fits ``target - its mean at each position`` from ``source - its mean at each position``.

    Args:
        source: (images, N, C) tokens of the model.
        target: (images, N, D) tokens to be explained.
        strength: the ridge, as a share of the mean variance of the source's channels.
    """
    x, y = source.double(), target.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = (x - x_mean).flatten(0, 1), (y - y_mean).flatten(0, 1)
    gram = x.T @ x
    ridge = strength * gram.diagonal().mean().clamp_min(1e-12)
    weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), x.T @ y)
    return PositionRidge(x_mean, y_mean, weight)


def explained(ridge: PositionRidge, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Per image: squared error of the ridge, and of predicting the position mean alone. Both (images,).

    ``1 - sum(first) / sum(second)`` is the share of the variance beyond the position mean.
    """
    y = target.double()
    error = (y - ridge.predict(source)).square().sum((1, 2))
    baseline = (y - ridge.target_mean).square().sum((1, 2))
    return error, baseline
