"""Convex classifiers on frozen features: multinomial logistic regression.

``logistic_predict`` is scikit-learn's, for accuracies; ``fit_logistic`` is solved to a stated gradient norm,
because a curvature measured through an unconverged probe is the curvature of nothing in particular.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from fdlab.errors import FAILED, NOT_UNDERSTOOD, USAGE, FdlabError


def logistic_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, strength: float = 1.0) -> np.ndarray:
    """Fits on standardised ``train`` (M, C) and predicts ``test`` (T, C); deterministic (L-BFGS).

    ``strength`` is scikit-learn's inverse regularisation C.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, labels)
    return model.predict(test)


@dataclass(frozen=True)
class Logistic:
    """A fitted multinomial regression: logits = ``features @ weight.T + bias``."""

    weight: np.ndarray  # (K, C)
    bias: np.ndarray  # (K,)
    loss: float  # mean cross-entropy, without the penalty
    gradient_norm: float  # of the penalised loss, at the solution
    accuracy: float


def fit_logistic(features: np.ndarray, labels: np.ndarray, *, l2: float = 1e-4, tolerance: float = 1e-6) -> Logistic:
    """Minimises mean cross-entropy + ``l2 |weight|^2 / 2`` by full-batch L-BFGS, then Newton steps, in float64.

    Args:
        features: (n, C), finite.
        labels: (n,) integers 0..K-1.
        l2: the penalty, in units of the mean loss; the bias is free.
        tolerance: of the gradient's norm.

    Raises:
        FdlabError: one class only, values that are not finite, separable features without a penalty (there
            is no minimum), or no convergence.
    """
    from scipy.optimize import minimize

    x, y = np.asarray(features, dtype=np.float64), np.asarray(labels)
    classes = int(y.max()) + 1
    if len(np.unique(y)) < 2:
        raise FdlabError(
            "All images have one label.", "A classifier needs two classes.", "Give images of several.", NOT_UNDERSTOOD
        )
    if not np.isfinite(x).all():
        raise FdlabError("The features hold values that are not finite.", "", "Check the weights.", NOT_UNDERSTOOD)
    problem = _Problem(np.hstack([x, np.ones((len(x), 1))]), y, classes, l2)
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 0.0, "gtol": tolerance / 10, "maxcor": 30}
    start = np.zeros(classes * problem.width)
    point = minimize(problem.value, start, jac=True, method="L-BFGS-B", options=options).x
    if np.linalg.norm(problem.value(point)[1]) > tolerance and l2 > 0:
        inner = {"gtol": tolerance / 2, "maxiter": 50}
        point = minimize(problem.value, point, jac=True, hessp=problem.product, method="trust-ncg", options=inner).x
    norm = float(np.linalg.norm(problem.value(point)[1]))
    logits = problem.logits(point)
    accuracy = float((logits.argmax(1) == y).mean())
    if l2 == 0 and accuracy == 1:
        raise FdlabError(
            "The probe has no minimum: its classes are separable and there is no penalty.",
            "Its loss and curvature go to 0 as the weights grow without end.",
            "Give l2 > 0 (1e-4).",
            USAGE,
        )
    if norm > tolerance:
        why = f"Its gradient norm is {norm:.1e} after L-BFGS, asked for {tolerance:.0e}."
        raise FdlabError("The linear probe did not converge.", why, "Give a larger l2.", FAILED)
    weight = point.reshape(classes, problem.width)
    return Logistic(weight[:, :-1].copy(), weight[:, -1].copy(), problem.cross_entropy(logits), norm, accuracy)


class _Problem:
    """Value, gradient and Hessian products of the penalised loss; ``x`` carries a column of ones."""

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int, l2: float) -> None:
        self.x, self.y, self.width, self.shape = x, y, x.shape[1], (classes, x.shape[1])
        self.penalty = np.full(self.shape, l2)
        self.penalty[:, -1] = 0.0
        self.target = np.eye(classes)[y]

    def logits(self, point: np.ndarray) -> np.ndarray:
        return self.x @ point.reshape(self.shape).T

    def cross_entropy(self, logits: np.ndarray) -> float:
        from scipy.special import logsumexp

        return float((logsumexp(logits, axis=1) - logits[np.arange(len(self.y)), self.y]).mean())

    def value(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        weight, logits = point.reshape(self.shape), self.logits(point)
        gradient = (_softmax(logits) - self.target).T @ self.x / len(self.y) + self.penalty * weight
        return self.cross_entropy(logits) + 0.5 * float((self.penalty * weight**2).sum()), gradient.ravel()

    def product(self, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
        p, moved = _softmax(self.logits(point)), self.logits(vector)
        curved = p * moved - p * (p * moved).sum(1, keepdims=True)
        return (curved.T @ self.x / len(self.y) + self.penalty * vector.reshape(self.shape)).ravel()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
