"""A linear classifier on pooled tokens: given features, or the tokens that one learnt query attends to.

Every pooling has the same standardisation, penalties, folds and search. Features that are pooled already are a convex
problem and solved as one (``logistic.py``); a query is learnt by L-BFGS.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.logistic import TOLERANCE, Problem
from fdlab.measures.threads import one_thread
from fdlab.randomness import stream

PENALTIES = (100.0, 10.0, 1.0, 0.1)  # strongest first: of equal ones the stronger is taken
STEPS = 100  # of L-BFGS, for each fit
AT_ONCE = 32  # images whose tokens are read together, so that all passes over them stay in the cache


class Pooled(NamedTuple):
    """A fitted classifier: logits = weight @ z + bias; z is the mean of the standardised tokens t, weighted by
    softmax(t . query / sqrt(C)) over the tokens of an image."""

    query: np.ndarray  # (C,), on standardised tokens; no meaning where there is one token
    weight: np.ndarray  # (K, C)
    bias: np.ndarray  # (K,)
    mean: np.ndarray  # (C,)
    scale: np.ndarray  # (C,)


def cross_validated(parts: Sequence[Tensor], labels: Sequence[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """Whether the class of each image is named by a classifier fitted on the other folds.

    The penalty is searched inside the other folds: fitted without one of them, judged by the cross-entropy on
    that one, then fitted again on all of them. Images whose class no fitted image has do not judge, and are never
    named rightly.

    Args:
        parts: the tokens of each fold, (b, N, C); (b, 1, C) for features that are pooled already.
        labels: classes from 0 of each fold, (b,).
        seed: of the query's start.

    Returns:
        (b,) bool for each fold.
    """
    classes = int(max(int(part.max()) for part in labels if len(part))) + 1
    if parts[0].shape[1] == 1:
        images, width = sum(map(len, parts)), parts[0].shape[2]
        with one_thread(images * min(images, width) * classes):
            return _of_features([part[:, 0].double().numpy() for part in parts], labels, classes)
    with one_thread():
        return _of_tokens(parts, labels, classes, seed)


def _folds(count: int) -> list[tuple[int, int, list[int], list[int]]]:
    """For each fold: itself, the fold that judges its penalty, the folds that are fitted for it, and all others."""
    found = []
    for out in range(count):
        judge, rest = (out + 1) % count, [fold for fold in range(count) if fold != out]
        found.append((out, judge, [fold for fold in rest if fold != judge], rest))
    return found


def _of_features(parts: list[np.ndarray], labels: Sequence[np.ndarray], classes: int) -> list[np.ndarray]:
    right, worst = [], 0.0
    for out, judge, inner, rest in _folds(len(parts)):
        fits = list(_problem(parts, labels, inner).path(PENALTIES))
        shown = np.isin(labels[judge], fits[0].classes)
        losses = [_entropy(fit.logits(parts[judge][shown], classes), labels[judge][shown]) for fit in fits]
        best = int(np.argmin(losses))
        (fit,) = _problem(parts, labels, rest).path(PENALTIES[best : best + 1], start=fits[best])
        right.append(fit.logits(parts[out], classes).argmax(1) == labels[out])
        worst = max(worst, *(each.gradient for each in (*fits, fit)))
    if worst > TOLERANCE:
        warnings.warn(
            f"The linear probe is not solved: its gradient is {worst:.0e} for each image, {TOLERANCE:.0e} was wanted",
            stacklevel=2,
        )
    return right


def _problem(parts: list[np.ndarray], labels: Sequence[np.ndarray], chosen: list[int]) -> Problem:
    return Problem(np.concatenate([parts[i] for i in chosen]), np.concatenate([labels[i] for i in chosen]))


def _of_tokens(parts: Sequence[Tensor], labels: Sequence[np.ndarray], classes: int, seed: int) -> list[np.ndarray]:
    right = []
    for out, judge, inner, rest in _folds(len(parts)):
        losses = []
        for penalty in PENALTIES:
            model = _fitted(parts, labels, inner, classes, penalty, seed)
            losses.append(_entropy(logits(model, parts[judge]), labels[judge]))
        model = _fitted(parts, labels, rest, classes, PENALTIES[int(np.argmin(losses))], seed)
        right.append(logits(model, parts[out]).argmax(1) == labels[out])
    return right


def _fitted(
    parts: Sequence[Tensor], labels: Sequence[np.ndarray], chosen: list[int], classes: int, penalty: float, seed: int
) -> Pooled:
    return fit_pooled([parts[i] for i in chosen], np.concatenate([labels[i] for i in chosen]), classes, penalty, seed)


def fit_pooled(parts: Sequence[Tensor], labels: np.ndarray, classes: int, penalty: float, seed: int = 0) -> Pooled:
    """Minimises the summed cross-entropy + penalty (|weight|^2 + |query|^2) / 2 by L-BFGS, in ``STEPS`` steps at most.

    One query without key and value maps is all that single-query attention before a linear classifier can be:
    a key map is part of the query, a value map part of the classifier. At query 0 it is the mean of the tokens.
    With one token the problem is convex; else it has local minima, and the seed chooses the query's start.

    Args:
        parts: tokens, (b, N, C) each, of all images of ``labels`` in order.
        labels: (n,) classes 0..classes - 1.
    """
    from scipy.optimize import minimize

    problem = _Problem(parts, labels, classes, penalty)
    start = np.zeros(problem.width * (classes + 1) + classes)
    start[: problem.width] = 0.1 * stream(seed, "query", problem.width).standard_normal(problem.width)
    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 1e-6, "gtol": 1e-5}
    point = minimize(problem.value, start, jac=True, method="L-BFGS-B", options=options).x
    return Pooled(*problem.split(point), problem.mean, problem.scale)


def logits(model: Pooled, tokens: Tensor) -> np.ndarray:
    """(n, K) of the tokens (n, N, C)."""
    values = [_pool(part, model.query / model.scale)[0] for part in tokens.split(AT_ONCE)]
    z = np.concatenate([part.double().numpy() for part in values]) if values else np.zeros((0, len(model.mean)))
    return ((z - model.mean) / model.scale) @ model.weight.T + model.bias


def _pool(tokens: Tensor, query: np.ndarray) -> tuple[Tensor, Tensor]:
    """(b, N, C) -> the attended mean (b, C), the attention (b, N). Sums of products: faster here than matrix calls."""
    attention = (tokens * torch.from_numpy(query / len(query) ** 0.5).to(tokens.dtype)).sum(-1).softmax(1)
    return (tokens * attention[..., None]).sum(1), attention


def _entropy(values: np.ndarray, labels: np.ndarray) -> float:
    """The summed cross-entropy of logits (n, K)."""
    from scipy.special import logsumexp

    return float((logsumexp(values, axis=1) - values[np.arange(len(labels)), labels]).sum())


class _Problem:
    """The penalised cross-entropy and its gradient, over the images a few at a time."""

    def __init__(self, parts: Sequence[Tensor], labels: np.ndarray, classes: int, penalty: float) -> None:
        self.pieces = [piece for part in parts for piece in part.split(AT_ONCE) if len(piece)]
        targets = torch.from_numpy(np.eye(classes)[labels])
        self.targets = targets.split([len(piece) for piece in self.pieces])
        self.images, self.classes, self.penalty = len(labels), classes, penalty
        self.width = int(self.pieces[0].shape[-1])
        count = sum(piece.shape[0] * piece.shape[1] for piece in self.pieces)
        mean = sum(piece.sum((0, 1), dtype=torch.float64) for piece in self.pieces) / count
        spread = sum((piece - mean.to(piece.dtype)).square().sum((0, 1), dtype=torch.float64) for piece in self.pieces)
        deviation = (spread / count).sqrt()
        self.mean = mean.numpy()
        self.scale = torch.where(deviation > 1e-8 * (1 + mean.abs()), deviation, 1.0).numpy()

    def split(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """query (C,), weight (K, C), bias (K,)."""
        query, rest = point[: self.width], point[self.width :]
        return query, rest[: -self.classes].reshape(self.classes, self.width), rest[-self.classes :]

    def value(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        query, weight, bias = self.split(point)
        w, b, mean, scale = (torch.from_numpy(x) for x in (weight, bias, self.mean, self.scale))
        loss, to_query = 0.0, torch.zeros(self.width, dtype=torch.float64)
        to_weight, to_bias = torch.zeros_like(w), torch.zeros_like(b)
        for tokens, target in zip(self.pieces, self.targets, strict=True):
            pooled, attention = _pool(tokens, query / self.scale)
            z = (pooled.double() - mean) / scale
            chances = (z @ w.T + b).log_softmax(1)
            loss -= float((target * chances).sum())
            error = chances.exp() - target
            to_weight += error.T @ z
            to_bias += error.sum(0)
            if tokens.shape[1] > 1:
                to_pooled = ((error @ w) / scale).to(tokens.dtype)
                pull = attention * (tokens * to_pooled[:, None]).sum(-1)
                pull = pull - attention * pull.sum(1, keepdim=True)
                to_query += (tokens * pull[..., None]).sum((0, 1)).double() / (scale * self.width**0.5)
        size = float((query**2).sum() + (weight**2).sum())
        towards = np.concatenate([to_query.numpy(), to_weight.numpy().ravel(), to_bias.numpy()])
        gradient = towards + self.penalty * np.concatenate([query, weight.ravel(), np.zeros(self.classes)])
        return (loss + 0.5 * self.penalty * size) / self.images, gradient / self.images
