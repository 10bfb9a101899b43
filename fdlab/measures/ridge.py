"""A ridge regression between token sets: how much of a teacher can be read out of a model."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
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
    """Fits ``target - its mean at each position`` from ``source - its mean at each position``: (X'X + r I)^-1 X'Y.

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


STRENGTHS = 10.0 ** np.arange(-6, 7)  # shares of the mean variance of the standardised channels


@dataclass
class _Sums:
    """The number of some images and the sums of their tokens over images (of products: over positions too)."""

    images: float
    source: Tensor  # (N, C)
    target: Tensor  # (N, D)
    gram: Tensor  # (C, C)
    cross: Tensor  # (C, D)

    def minus(self, other: _Sums) -> _Sums:
        return _Sums(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def means(self) -> tuple[Tensor, Tensor]:
        return self.source / self.images, self.target / self.images

    def around(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Gram matrix (C, C) and cross products (C, D) of these images around given position means."""
        outer = self.source.T @ source
        gram = self.gram - outer - outer.T + self.images * source.T @ source
        cross = self.cross - self.source.T @ target - source.T @ self.target + self.images * source.T @ target
        return gram, cross


class FoldedRidge:
    """A ridge for each fold of the images from sums over the others, so that no token is kept.

    The strength is searched in ``STRENGTHS`` inside the other folds: fitted without one of them, judged on it. The
    strongest leaves nothing of the map, so that what cannot be predicted ends near 0 and not below. Channels of the
    source are standardised. Memory: folds (C^2 + C D + N C + N D) float64.
    """

    def __init__(self, folds: int) -> None:
        self._sums: list[_Sums | None] = [None] * folds

    def add(self, source: Tensor, target: Tensor, folds: np.ndarray) -> None:
        """Tokens (b, N, C) and (b, N, D) of images of the folds (b,)."""
        for fold in np.unique(folds):
            chosen = torch.from_numpy(folds == fold)
            x, y = source[chosen].double(), target[chosen].double()
            flat = x.flatten(0, 1)
            new = _Sums(len(x), x.sum(0), y.sum(0), flat.T @ flat, flat.T @ y.flatten(0, 1))
            old = self._sums[fold]
            if old is None:
                self._sums[fold] = new
            else:
                for field in fields(old):
                    setattr(old, field.name, getattr(old, field.name) + getattr(new, field.name))

    def fit(self) -> list[PositionRidge]:
        """The ridge of the other folds, for each fold. The sums are freed."""
        sums = [part for part in self._sums if part is not None]
        if len(sums) < len(self._sums):
            raise ValueError("a fold has no image")
        self._sums = []
        whole = sums[0]
        for part in sums[1:]:
            whole = _Sums(*(getattr(whole, f.name) + getattr(part, f.name) for f in fields(part)))
        ridges = []
        for fold, part in enumerate(sums):
            judge, rest = sums[(fold + 1) % len(sums)], whole.minus(part)
            strength = _strength(rest.minus(judge), judge)
            source, target = rest.means()
            values, basis, scale, cross = _spectral(rest)
            weight = basis @ (cross / (values + strength)[:, None]) / scale[:, None]
            ridges.append(PositionRidge(source, target, weight))
        return ridges


def _spectral(sums: _Sums) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Around the position means, with channels of length 1: the Gram matrix' eigenvalues (C,) and basis (C, C), the
    channels' lengths (C,), and the cross products in that basis (C, D)."""
    gram, cross = sums.around(*sums.means())
    scale = gram.diagonal().clamp_min(0).sqrt()
    scale = torch.where(scale > 1e-9 * scale.max(), scale, torch.inf)  # a channel that never changes explains nothing
    values, basis = torch.linalg.eigh(gram / scale / scale[:, None])
    return values.clamp_min(0), basis, scale, basis.T @ (cross / scale[:, None])


def _strength(fitted: _Sums, judge: _Sums) -> float:
    """The strength whose map, of ``fitted``, has the least squared error on ``judge``; of equals the strongest."""
    values, basis, scale, cross = _spectral(fitted)
    gram, met = judge.around(*fitted.means())
    curved = (basis.T @ (gram / scale / scale[:, None]) @ basis) * (cross @ cross.T)
    along = (cross * (basis.T @ (met / scale[:, None]))).sum(1)

    def error(strength: float) -> float:
        shrunk = 1 / (values + strength)
        return float(shrunk @ curved @ shrunk - 2 * shrunk @ along)

    return float(min(reversed(STRENGTHS), key=error))
