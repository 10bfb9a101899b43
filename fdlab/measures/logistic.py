"""Multinomial logistic regression with a quadratic penalty: a convex problem, solved until its gradient is small.

The features are turned into the eigenbasis of the smaller of their Gram matrices, n x n or C x C. The solution lies in
that space and the weight's length is the same there, so it is exact; all penalties of one training set share the basis.
There, Newton steps are solved by conjugate gradients, with the exact diagonal of the Hessian as preconditioner and no
more accuracy than a step needs (Dembo, Eisenstat & Steihaug 1982).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-5  # of the gradient's norm, for each image
STEPS = 100  # of Newton, at most: the first point of a path takes about ten
Array = NDArray[Any]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier of (n, C) features: logits = features @ weight.T + bias, for the classes that it was shown.

    ``weight`` (K, C) and ``bias`` (K,), of sum 0 over the classes, belong to ``classes`` (K,). ``gradient`` is the norm
    of the penalised loss's gradient for each image, in the space that was solved.
    """

    weight: Array
    bias: Array
    classes: Array
    gradient: float

    def logits(self, features: Array, count: int) -> Array:
        """(n, count): -inf for classes that it was not shown."""
        scores = np.full((len(features), count), -np.inf)
        scores[:, self.classes] = features @ self.weight.T + self.bias
        return scores


class Problem:
    """Features and labels of one training set, in their own basis.

    Args:
        features: (n, C), finite. Channels are centred, which a free bias makes harmless, and divided by their standard
            deviations where ``standardise`` (a constant channel stays 0).
        labels: (n,) integers from 0; numbers that do not occur are no classes of this problem.
    """

    def __init__(self, features: Array, labels: Array, *, standardise: bool = True) -> None:
        x = np.asarray(features, dtype=np.float64)
        self.mean = x.mean(0)
        deviation = x.std(0)
        wide = deviation > 1e-8 * (1 + np.abs(self.mean))
        self.scale = np.where(wide, deviation, 1.0) if standardise else np.ones(x.shape[1])
        points, self.back = _in_own_basis((x - self.mean) / self.scale)
        self.points = np.concatenate([points, np.ones((len(x), 1))], 1)  # the last column is the bias
        self.classes, places = np.unique(labels, return_inverse=True)
        self.targets = np.eye(len(self.classes))[places]

    def path(
        self, penalties: Sequence[float], *, tolerance: float = TOLERANCE, start: Fit | None = None
    ) -> Iterator[Fit]:
        """The minimum of the summed cross-entropy + penalty |weight|^2 / 2 for each penalty, each from the one before.

        Args:
            penalties: on weights of the standardised features; the strongest first is fastest.
            tolerance: of the gradient's norm, for each image.
            start: a fit of other images of the same classes, where to begin.
        """
        point = self._place(start) if start is not None else np.zeros((self.points.shape[1], len(self.classes)))
        for penalty in penalties:
            point, norm = _minimum(self.points, self.targets, penalty, point, tolerance * len(self.targets))
            yield self._fit(point, norm / len(self.targets))

    def _fit(self, point: Array, norm: float) -> Fit:
        weight = (self.back @ point[:-1]).T / self.scale
        bias = point[-1] - weight @ self.mean
        return Fit(weight, bias, self.classes, norm)

    def _place(self, fit: Fit) -> Array:
        """The point of this basis next to a fit; 0 for classes that it was not shown."""
        point = np.zeros((self.points.shape[1], len(self.classes)))
        for row, found in enumerate(self.classes):
            known = np.flatnonzero(fit.classes == found)
            if len(known):
                weight = fit.weight[known[0]]
                point[:-1, row] = self.back.T @ (weight * self.scale)
                point[-1, row] = fit.bias[known[0]] + weight @ self.mean
        return point


def _in_own_basis(x: Array) -> tuple[Array, Array]:
    """Centred (n, C) -> coordinates (n, r) and orthonormal columns (C, r) with x = coordinates @ columns.T."""
    n, width = x.shape
    values, basis = np.linalg.eigh(x @ x.T if n <= width else x.T @ x)
    kept = values > 4 * np.finfo(float).eps * n * max(values[-1], 0.0)
    values, basis = values[kept], basis[:, kept]
    if n > width:
        return x @ basis, basis
    lengths = np.sqrt(values)
    return basis * lengths, (x.T @ basis) / lengths


def _minimum(x: Array, targets: Array, penalty: float, point: Array, tolerance: float) -> tuple[Array, float]:
    """The minimum from ``point`` (r + 1, K; the last row is the free bias), and the gradient's norm there."""
    n, ridge = len(x), np.full((x.shape[1], 1), penalty)
    ridge[-1] = 0.0
    squares, most = x * x, int(20 * np.sqrt(point.size) + 50)
    values = x @ point
    loss, chances = _loss(values, targets, point, ridge)
    for step in range(STEPS + 1):
        gradient = x.T @ (chances - targets) + ridge * point
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance or step == STEPS:
            break
        diagonal = np.maximum(squares.T @ (chances * (1 - chances)) + ridge, 1e-12 * n)
        direction = _direction(x, chances, ridge, gradient, diagonal, min(0.1, np.sqrt(norm / n)) * norm, most)
        moved, slope, share = x @ direction, float((gradient * direction).sum()), 1.0
        while share > 1e-10:
            new, new_chances = _loss(values + share * moved, targets, point + share * direction, ridge)
            if new <= loss + 1e-4 * share * slope + 1e-13 * abs(loss):  # the last: rounding of the sum
                break
            share /= 2
        else:
            break  # no descent is left beyond rounding
        point, values, loss, chances = point + share * direction, values + share * moved, new, new_chances
    point = point.copy()
    point[-1] -= point[-1].mean()
    return point, norm


def _loss(values: Array, targets: Array, point: Array, ridge: Array) -> tuple[float, Array]:
    """The penalised loss and the chances (n, K) of logits (n, K)."""
    shifted = values - values.max(1, keepdims=True)
    chances = np.exp(shifted)
    total = chances.sum(1, keepdims=True)
    chances /= total
    entropy = float(np.log(total).sum() - (shifted * targets).sum())
    return entropy + 0.5 * float((ridge * point**2).sum()), chances


def _direction(
    x: Array, chances: Array, ridge: Array, gradient: Array, diagonal: Array, enough: float, most: int
) -> Array:
    """Newton's direction by at most ``most`` preconditioned conjugate gradients, until the residual is ``enough``."""
    small = np.float32  # a step needs a tenth to a hundredth of accuracy; gradient and loss are float64
    x, chances, ridge, diagonal = (each.astype(small) for each in (x, chances, ridge, diagonal))
    residual = -gradient.astype(small)
    found, pull = np.zeros_like(residual), residual / diagonal
    towards, gain = pull, float((residual * pull).sum())
    for _ in range(most):
        moved = x @ towards
        weighted = chances * moved
        weighted -= chances * weighted.sum(1, keepdims=True)
        product = x.T @ weighted + ridge * towards
        curvature = float((towards * product).sum())
        if curvature <= 0:
            break
        share = gain / curvature
        found = found + share * towards
        residual = residual - share * product
        if np.linalg.norm(residual) <= enough:
            break
        pull = residual / diagonal
        gain, before = float((residual * pull).sum()), gain
        towards = pull + gain / before * towards
    return found
