"""A convex classifier on frozen features: multinomial logistic regression, by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np


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
