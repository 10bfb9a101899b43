"""Feature arithmetic against the truth cases, closed forms and invariances."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fdlab.measures import features as f
from fdlab.measures.classifier import knn_predict
from fdlab.measures.feature_rows import cka_rows
from fdlab.randomness import stream

TRUTH: dict[str, Any] = json.loads((files("fdlab.known_answers") / "attention_truth.json").read_text())["features"]


def grid(n: int, d: int, a: int, b: int, m: int) -> Tensor:
    i, j = torch.arange(n).double()[:, None], torch.arange(d).double()
    return (a * i + b * j) % m


X, Y = grid(10, 3, 3, 5, 7), grid(10, 4, 2, 9, 11)
TOKENS = 1 + grid(6, 4, 3, 5, 7)


def test_cka_cases() -> None:
    truth = TRUTH["cka"]
    assert f.cka(X, Y, biased=True) == pytest.approx(truth["biased"], abs=1e-9)
    assert f.cka(X, Y) == pytest.approx(truth["unbiased"], abs=1e-9)
    assert f.cka(X, Y, batch=5) == pytest.approx(truth["minibatch_unbiased_batches_of_5"], abs=1e-9)
    assert float(f.hsic_unbiased(f.gram(X), f.gram(Y))) == pytest.approx(truth["hsic_u_XY"], abs=1e-8)
    assert float(f.hsic_unbiased(f.gram(X), f.gram(X))) == pytest.approx(truth["hsic_u_XX"], abs=1e-8)
    with pytest.raises(ValueError, match="at least 4"):
        f.cka(X[:3], Y[:3])


def test_cka_sees_neither_rotation_scale_nor_shift() -> None:
    turn = torch.linalg.qr(grid(3, 3, 2, 3, 5) + torch.eye(3).double())[0]
    copy = 3 * X @ turn + 100
    assert f.cka(X, copy) == pytest.approx(1, abs=1e-9)
    assert f.cka(X, copy, biased=True) == pytest.approx(1, abs=1e-9)


def grams(*features: np.ndarray) -> dict[str, np.ndarray]:
    """Gram matrices of blocks as the probe keeps them: groups of 32 images (the last may be smaller), no diagonal."""
    count = len(features[0])
    sizes = [min(32, count - start) for start in range(0, count, 32)]
    kept = np.zeros((len(sizes), len(features), 32, 32))
    for group, size in enumerate(sizes):
        for block, values in enumerate(features):
            part = values[32 * group : 32 * group + size]
            kept[group, block, :size, :size] = part @ part.T * (1 - np.eye(size))
    return {"gram": kept, "gram_sizes": np.array(sizes)}


@pytest.mark.parametrize("count", [12, 64, 80])
def test_cka_of_known_features_and_its_interval_stay_between_0_and_1(count: int) -> None:
    draw = stream(count, "cka")
    x, apart = draw.normal(size=(2, count, 3))
    near = x + 0.3 * draw.normal(size=(count, 3))
    same, alike, unrelated = cka_rows(grams(x), grams(2 * x[:, ::-1], near, apart))
    assert [same[end] for end in ("value", "low", "high")] == [pytest.approx(1, abs=1e-9)] * 3
    assert 0 < alike["low"] < alike["value"] < alike["high"] < 1 and alike["high"] > 0.9
    assert alike["high"] - alike["value"] < alike["value"] - alike["low"]  # uneven near 1
    assert min(0, unrelated["value"]) <= unrelated["low"] <= unrelated["value"] <= unrelated["high"] <= 1
    assert abs(unrelated["value"]) < 2 / math.sqrt(count)


def test_an_interval_of_cka_begins_at_0_or_at_an_estimate_below() -> None:
    draw = stream(3, "below 0")
    rows = [cka_rows(grams(x), grams(y))[0] for x, y in draw.normal(size=(20, 2, 64, 5))]
    assert {row["low"] for row in rows if row["value"] >= 0} == {0.0}  # unrelated features: no interval is above 0
    below = [row for row in rows if row["value"] < 0]
    assert 4 <= len(below) <= 16 and all(row["low"] == row["value"] and row["high"] >= 0 for row in below)


def test_spectrum_cases() -> None:
    truth = TRUTH["spectrum"]
    s = torch.tensor(truth["singular_values"], dtype=torch.float64)
    assert float(f.effective_rank(s)) == pytest.approx(truth["effective_rank_from_sv"], abs=1e-9)
    assert float(f.effective_rank(s**2)) == pytest.approx(truth["effective_rank_from_sv2"], abs=1e-9)
    assert float(f.participation_ratio(s)) == pytest.approx(truth["participation_ratio"], abs=1e-9)
    assert float(f.effective_rank(torch.full((5,), 3.0))) == pytest.approx(5, abs=1e-9)
    torch.testing.assert_close(f.spectrum(torch.diag(s**2)), s)


@pytest.mark.parametrize(
    ("side", "k", "dc", "size", "case"), [(14, 6, 2, 0.5, "field_14x14_k6"), (8, 3, 4, 1, "field_8x8_k3")]
)
def test_fourier_cases(side: int, k: int, dc: float, size: float, case: str) -> None:
    r, c = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    field = dc + size * torch.cos(2 * math.pi * k * (r + c).double() / side)
    value = float(f.high_frequency(field[None, None], "published"))
    assert value == pytest.approx(TRUTH["fourier"][case]["last_half_diagonal_rel_log"], abs=1e-9)


def test_a_checkerboard_is_seen_at_the_true_end_only() -> None:
    r, c = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    board = (4 + (-1.0) ** (r + c)).double()[None, None]
    assert float(f.high_frequency(board)) == pytest.approx(TRUTH["fourier"]["checker_8x8"]["nyquist_rel_log"], abs=1e-6)
    assert float(f.high_frequency(board, "published")) < -15


def test_token_cases() -> None:
    truth = TRUTH["tokens"]
    assert float(f.token_similarity(TOKENS[None])) == pytest.approx(truth["mean_pair_cosine"], abs=1e-9)
    assert float(f.token_variance(TOKENS[None])) == pytest.approx(
        truth["variance_over_tokens_ddof1_mean_channels"], abs=1e-9
    )
    assert math.isnan(float(f.token_similarity(TOKENS[None, :1])))


def test_alignment_and_uniformity_cases() -> None:
    truth = TRUTH["alignment_uniformity"]
    assert float(f.alignment(TOKENS[::2], TOKENS[1::2]).mean()) == pytest.approx(truth["alignment_a2"], abs=1e-9)
    assert f.uniformity(TOKENS) == pytest.approx(truth["uniformity_t2"], abs=1e-9)
    assert f.uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8, abs=1e-9)
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert f.uniformity(square) == pytest.approx(truth["four_points_of_a_square_uniformity_t2"], abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_knn_case(k: int) -> None:
    truth = TRUTH["knn"]
    cosines = torch.tensor(truth["sims"])
    train = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)
    found = knn_predict(train, torch.tensor(truth["labels"]), torch.tensor([[1.0, 0.0]]), k=k, temperature=truth["T"])
    assert int(found) == truth["prediction"][str(k)]
