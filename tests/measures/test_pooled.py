"""Pooled classifiers: where the label stands in one token, where in the mean, and where nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from torch import Tensor

from fdlab.measures.pooled import _Problem, cross_validated, fit_pooled, logits

FOLDS = 5


def accuracy(tokens: Tensor, labels: np.ndarray, seed: int = 0) -> float:
    parts, answers = ([x[f::FOLDS] for f in range(FOLDS)] for x in (tokens, labels))
    return float(np.concatenate(cross_validated(parts, answers, seed=seed)).mean())


def in_one_token(n: int = 300, tokens: int = 16, width: int = 8) -> tuple[Tensor, np.ndarray]:
    """A flagged token, elsewhere in every image, says the class; 15 others say noise in the same channel."""
    rng = np.random.default_rng(0)
    x, labels, place = rng.normal(size=(n, tokens, width)), rng.integers(0, 2, n), rng.integers(0, tokens, n)
    x[:, :, 1] *= 0.3
    x[np.arange(n), place, 0], x[np.arange(n), place, 1] = 2.0 * (2 * labels - 1), 5.0
    return torch.from_numpy(x).float(), labels


def in_the_mean(n: int = 300, signal: float = 0.8) -> tuple[Tensor, np.ndarray]:
    """Every token leans a little to the class: one alone is uncertain, 16 are not."""
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(n, 16, 8)), rng.integers(0, 3, n)
    x[:, :, :3] += signal * np.eye(3)[labels][:, None]
    return torch.from_numpy(x).float(), labels


def test_a_token_of_varying_position_is_found_by_attention_only() -> None:
    tokens, labels = in_one_token()
    assert accuracy(tokens, labels) > 0.97
    assert accuracy(tokens.mean(1, keepdim=True), labels) < 0.75


def test_what_the_mean_carries_both_find() -> None:
    tokens, labels = in_the_mean()
    attentive, mean = accuracy(tokens, labels), accuracy(tokens.mean(1, keepdim=True), labels)
    assert mean > 0.9 and attentive > mean - 0.03


def test_noise_is_not_learnt() -> None:
    tokens, labels = in_the_mean(signal=0.0)
    assert accuracy(tokens, labels) < 1 / 3 + 3 * (2 / 9 / 300) ** 0.5


def test_same_seed_same_answer_and_the_start_does_not_decide() -> None:
    tokens, labels = in_one_token(n=120)
    first, again, other = (fit_pooled([tokens], labels, 2, 1.0, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.query, again.query) and not np.array_equal(first.query, other.query)
    assert (logits(first, tokens).argmax(1) == logits(other, tokens).argmax(1)).mean() > 0.97


def test_the_gradient_is_that_of_the_value() -> None:
    tokens, labels = in_the_mean(n=20)
    problem = _Problem([tokens[:7].double(), tokens[7:].double()], labels, 3, 3.0)
    point = 0.3 * np.random.default_rng(2).normal(size=8 * 4 + 3)
    numeric = approx_fprime(point, lambda p: problem.value(p)[0], 1e-6)
    np.testing.assert_allclose(problem.value(point)[1], numeric, atol=2e-6)


def test_one_token_is_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    tokens, labels = in_the_mean()
    x = tokens.mean(1).double()
    own = fit_pooled([x[:, None]], labels, 3, 10.0)
    known = LogisticRegression(C=0.1, max_iter=1000, tol=1e-8).fit((x - x.mean(0)) / x.std(0, unbiased=False), labels)
    np.testing.assert_allclose(own.weight, known.coef_, atol=0.01)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_units_and_constant_channels_do_not_matter(scale: float) -> None:
    tokens, labels = in_one_token(n=120)
    changed = torch.cat([tokens * scale, torch.full((*tokens.shape[:2], 1), 7.0)], 2)
    assert abs(accuracy(tokens, labels) - accuracy(changed, labels)) < 0.05
