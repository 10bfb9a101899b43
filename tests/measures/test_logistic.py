"""The convex classifier: its minimum, its bound, its basis, and what small problems cost with several threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fdlab.measures import pooled
from fdlab.measures.logistic import TOLERANCE, Problem
from fdlab.measures.threads import LARGE, one_thread

PENALTIES = (100.0, 10.0, 1.0, 0.1)


def data(n: int, width: int, classes: int, power: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose singular values fall as j^-power; the class leans on all of their directions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    labels = rng.integers(0, classes, n)
    x = rng.normal(size=(n, width)) + 0.5 * rng.normal(size=(classes, width))[labels]
    return (x * np.arange(1.0, width + 1) ** -power) @ basis, labels


@pytest.mark.parametrize(("n", "width", "classes"), [(60, 8, 3), (40, 90, 4), (80, 6, 2)])
def test_the_minimum_is_scikit_learns(n: int, width: int, classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    x, labels = data(n, width, classes, 0.5)
    z = (x - x.mean(0)) / x.std(0)
    for penalty, fit in zip(PENALTIES, Problem(x, labels).path(PENALTIES, tolerance=1e-9), strict=True):
        # scikit-learn fits two classes by one logit, whose weight counts half
        strength = 2 / penalty if classes == 2 else 1 / penalty
        known = LogisticRegression(C=strength, tol=1e-9, solver="newton-cg", max_iter=1000).fit(z, labels)
        theirs = known.predict_log_proba(z)
        ours = torch.from_numpy(fit.logits(x, classes)).log_softmax(1).numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("n", "width"), [(150, 64), (32, 256), (300, 40)])
def test_nearly_degenerate_features_are_solved_too(n: int, width: int) -> None:
    x, labels = data(n, width, 10, 2.0)
    z = (x - x.mean(0)) / x.std(0)
    for penalty, fit in zip(PENALTIES, Problem(x, labels).path(PENALTIES), strict=True):
        values = torch.from_numpy(fit.logits(x, 10)).softmax(1).numpy()
        weight = fit.weight * x.std(0)  # on standardised features
        gradient = (values - np.eye(10)[labels]).T @ z + penalty * weight
        assert np.linalg.norm(gradient) <= 1.1 * TOLERANCE * n and fit.gradient <= TOLERANCE
        assert abs((values - np.eye(10)[labels]).sum(0)).max() <= TOLERANCE * n  # the bias is free


def test_a_start_elsewhere_leads_to_the_same_minimum() -> None:
    x, labels = data(90, 20, 4, 1.0)
    (plain,) = Problem(x, labels).path([1.0], tolerance=1e-8)
    (other,) = Problem(x[:50], labels[:50]).path([0.01])
    (started,) = Problem(x, labels).path([1.0], tolerance=1e-8, start=other)
    np.testing.assert_allclose(started.weight, plain.weight, atol=1e-5)


def test_answers_do_not_depend_on_a_seed_that_nothing_uses() -> None:
    x, labels = data(150, 64, 10, 2.0)
    parts = [torch.from_numpy(x[fold::5])[:, None] for fold in range(5)]
    answers = [np.concatenate(pooled.cross_validated(parts, [labels[f::5] for f in range(5)], seed=s)) for s in (0, 1)]
    assert np.array_equal(*answers)


def test_a_class_that_was_not_shown_is_never_named_and_does_not_judge() -> None:
    x, labels = data(60, 5, 3, 0.0)
    (fit,) = Problem(x[labels < 2], labels[labels < 2]).path([1.0])
    assert set(fit.logits(x, 3).argmax(1)) <= {0, 1} and np.isinf(fit.logits(x, 3)[:, 2]).all()
    alone = np.where(np.arange(60) == 7, 3, labels)  # one image of a class of its own
    right = pooled.cross_validated(
        [torch.from_numpy(x[f::5])[:, None] for f in range(5)], [alone[f::5] for f in range(5)]
    )
    assert not right[7 % 5][7 // 5] and np.concatenate(right).mean() > 0.4


def test_features_that_say_nothing_leave_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1], [30, 10])
    (fit,) = Problem(np.ones((40, 3)), labels).path([1.0])
    chances = torch.from_numpy(fit.logits(np.ones((1, 3)), 2)).softmax(1)
    np.testing.assert_allclose(chances.numpy(), [[0.75, 0.25]], atol=1e-5)


def test_small_problems_have_one_thread_and_large_ones_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    from threadpoolctl import threadpool_info

    seen: list[int] = []
    solved = pooled._of_features
    monkeypatch.setattr(
        pooled,
        "_of_features",
        lambda *given: (
            seen.extend(
                [torch.get_num_threads(), *(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")]
            )
            or solved(*given)
        ),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, labels = data(40, 8, 2, 0.5)
        parts = [torch.from_numpy(x[fold::5])[:, None] for fold in range(5)]
        pooled.cross_validated(parts, [labels[f::5] for f in range(5)])
        assert set(seen) == {1} and torch.get_num_threads() == 2
        with one_thread(LARGE):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


COST = """
import time
import numpy as np, torch
from fdlab.measures.pooled import cross_validated, fit_pooled
rng = np.random.default_rng(0)
labels = rng.integers(0, 10, 150)
x = torch.from_numpy(rng.normal(size=(150, 1, 64)) * np.arange(1.0, 65) ** -1.0)
begun = time.process_time()
for _ in range(2):
    cross_validated([x[f::5] for f in range(5)], [labels[f::5] for f in range(5)])
tokens = torch.from_numpy(rng.normal(size=(40, 16, 16))).float()
cross_validated([tokens[f::5] for f in range(5)], [labels[:40][f::5] for f in range(5)])
print(time.process_time() - begun)
"""


@pytest.mark.slow
def test_default_threads_cost_no_more_processor_time_than_one() -> None:
    """Two pools that spin in turn cost tens of times as much; the bound is wide, so that a busy machine passes."""
    seconds = []
    for threads in ("1", ""):
        own = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        own |= {"OMP_NUM_THREADS": threads} if threads else {}
        done = subprocess.run([sys.executable, "-c", COST], env=own, capture_output=True, text=True, check=True)
        seconds.append(float(done.stdout))
    assert seconds[1] < 4 * seconds[0] + 2
