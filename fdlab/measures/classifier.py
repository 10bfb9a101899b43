"""Classifiers on frozen features: nearest neighbours, and multinomial logistic regression (``logistic.py``).

``logistic_predict`` is for accuracies; ``fit_logistic`` is solved to a stated gradient norm, because a curvature
measured through an unconverged probe is the curvature of nothing in particular.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.errors import FAILED, NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.logistic import Problem
from fdlab.measures.threads import one_thread


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float = 0.07, classes: int = 0
) -> Tensor:
    """Weighted vote of the k most similar training features (Caron et al. 2021, arXiv 2104.14294).

    Features are L2-normalised; a neighbour of cosine s votes with exp(s / temperature).

    Args:
        train: (M, C) features.
        labels: (M,) classes from 0.
        test: (T, C) features.
        classes: how many there are; 0: as many as the largest label says.

    Returns:
        (T,) predicted classes.

    >>> knn_predict(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor([[3.0, 1.0]])).tolist()
    [0]
    """
    classes = classes or int(labels.max()) + 1
    similarity = F.normalize(test.float(), dim=-1) @ F.normalize(train.float(), dim=-1).T
    top, index = similarity.topk(min(k, len(train)), dim=-1)
    votes = torch.zeros(len(test), classes, dtype=top.dtype)
    votes.scatter_add_(1, labels[index], (top / temperature).exp())
    return votes.argmax(-1)


def logistic_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, strength: float = 1.0) -> np.ndarray:
    """Fits on standardised ``train`` (M, C) with ``labels`` (M,) and predicts the classes (T,) of ``test`` (T, C).

    The summed cross-entropy + |weight|^2 / (2 strength) is minimised; ``strength`` is scikit-learn's C.
    """
    classes = int(np.max(labels)) + 1
    with one_thread(len(train) * min(train.shape) * classes):
        (fit,) = Problem(train, labels).path([1 / strength])
    return fit.logits(test, classes).argmax(1)


@dataclass(frozen=True)
class Logistic:
    """A fitted multinomial regression: logits = ``features @ weight.T + bias``."""

    weight: np.ndarray  # (K, C)
    bias: np.ndarray  # (K,), of sum 0
    loss: float  # mean cross-entropy, without the penalty
    gradient_norm: float  # of the penalised loss, at the solution
    accuracy: float


def fit_logistic(features: np.ndarray, labels: np.ndarray, *, l2: float = 1e-4, tolerance: float = 1e-6) -> Logistic:
    """Minimises mean cross-entropy + ``l2 |weight|^2 / 2``.

    The norm of the gradient is computed here again from the solution, whatever the solver reports.

    Args:
        features: (n, C), finite.
        labels: (n,) integers 0..K-1, each of which occurs.
        l2: the penalty, in units of the mean loss; the bias is free.
        tolerance: of the gradient's norm.

    Raises:
        FdlabError: one class only, values that are not finite, separable features without a penalty (there
            is no minimum), or no convergence.

    >>> fit = fit_logistic(np.array([[-1.0], [1.0], [-1.0], [1.0]]), np.array([0, 0, 1, 1]))  # tells nothing
    >>> round(fit.loss, 6), fit.accuracy
    (0.693147, 0.5)
    """
    from scipy.special import log_softmax

    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    n, classes = len(x), int(y.max()) + 1
    if len(np.unique(y)) < 2:
        raise FdlabError(
            "All images have one label.", "A classifier needs two classes.", "Give images of several.", NOT_UNDERSTOOD
        )
    if not np.isfinite(x).all():
        raise FdlabError("The features hold values that are not finite.", fix="Check the weights.", code=NOT_UNDERSTOOD)
    with one_thread(n * min(x.shape) * classes):
        (fit,) = Problem(x, y, standardise=False).path([n * l2], tolerance=tolerance / 100)
    weight, bias = fit.weight, fit.bias - fit.bias.mean()
    log_chances = log_softmax(x @ weight.T + bias, axis=1)
    error = (np.exp(log_chances) - np.eye(classes)[y]) / n
    norm = float(np.hypot(np.linalg.norm(error.T @ x + l2 * weight), np.linalg.norm(error.sum(0))))
    accuracy = float((log_chances.argmax(1) == y).mean())
    if l2 == 0 and accuracy == 1:
        raise FdlabError(
            "The probe has no minimum: its classes are separable and there is no penalty.",
            "Its loss and curvature go to 0 as the weights grow without end.",
            "Give l2 > 0 (1e-4).",
            USAGE,
        )
    if norm > tolerance:
        why = f"Its gradient norm is {norm:.1e}, asked for {tolerance:.0e}."
        raise FdlabError("The linear probe did not converge.", why, "Give a larger l2.", FAILED)
    return Logistic(weight, bias, float(-log_chances[np.arange(n), y].mean()), norm, accuracy)
