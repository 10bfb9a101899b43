"""The known answers for features in attention_truth.json, each built from its rule, for tests and the doctor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fdlab.known_answers.attention import truth
from fdlab.known_answers.check import Check
from fdlab.measures import features as form

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
Answers = Iterator[tuple[str, float | Tensor, float]]


def run_case(name: str, dtype: torch.dtype = torch.float64) -> list[Check]:
    """All checks of one case, with inputs in ``dtype``."""
    answers = CASES[name](truth()["features"], dtype)
    return [Check(what, float(got), want, TOLERANCE[dtype] * max(1.0, abs(want))) for what, got, want in answers]


def grid_values(rows: int, columns: int, up: int, across: int, modulus: int, dtype: torch.dtype) -> Tensor:
    """(rows, columns): ``(up * i + across * j) mod modulus``."""
    i, j = torch.arange(rows)[:, None], torch.arange(columns)[None]
    return ((up * i + across * j) % modulus).to(dtype)


def tokens(dtype: torch.dtype) -> Tensor:
    """(6, 4): the tokens of the cases ``tokens`` and ``sphere``."""
    return 1 + grid_values(6, 4, 3, 5, 7, dtype)


def _cka(known: dict[str, Any], dtype: torch.dtype) -> Answers:
    answers = known["cka"]
    x, y = grid_values(10, 3, 3, 5, 7, dtype), grid_values(10, 4, 2, 9, 11, dtype)
    yield "biased", form.cka(x, y, biased=True), answers["biased"]
    yield "unbiased", form.cka(x, y), answers["unbiased"]
    yield "minibatches of 5", form.cka(x, y, batch=5), answers["minibatch_unbiased_batches_of_5"]
    yield "HSIC of two", form.hsic_unbiased(form.gram(x), form.gram(y)), answers["hsic_u_XY"]
    yield "HSIC of one", form.hsic_unbiased(form.gram(x), form.gram(x)), answers["hsic_u_XX"]
    turn = torch.tensor([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]], dtype=dtype)
    yield "a rotated, scaled, shifted copy", form.cka(x, 2 * x @ turn + 3), 1.0


def _spectrum(known: dict[str, Any], dtype: torch.dtype) -> Answers:
    answers = known["spectrum"]
    singular = torch.tensor(answers["singular_values"], dtype=dtype)
    mirror = torch.eye(4, dtype=dtype) - 0.5  # a reflection: the covariance is full, its spectrum known
    covariance = mirror @ torch.diag(singular**2) @ mirror
    for rank, value in enumerate(form.spectrum(covariance)):
        yield f"singular value {rank + 1}", value, float(singular[rank])
    yield "effective rank", form.effective_rank(form.spectrum(covariance)), answers["effective_rank_from_sv"]
    yield "participation ratio", form.participation_ratio(singular), answers["participation_ratio"]
    yield "rank of equal values", form.effective_rank(torch.ones(5, dtype=dtype)), 5.0


def _fourier(known: dict[str, Any], dtype: torch.dtype) -> Answers:
    for name, side, mean, height, k in (("field_14x14_k6", 14, 2.0, 0.5, 6), ("field_8x8_k3", 8, 4.0, 1.0, 3)):
        diagonal = torch.arange(side)[:, None] + torch.arange(side)[None]
        field = (mean + height * torch.cos(2 * math.pi * k * diagonal.double() / side)).to(dtype)
        answer = known["fourier"][name]["last_half_diagonal_rel_log"]
        yield f"published form, {side} x {side}", form.high_frequency(field[None, None], "published"), answer
    checker = (4 + (-1.0) ** (torch.arange(8)[:, None] + torch.arange(8)[None])).to(dtype)
    answer = known["fourier"]["checker_8x8"]["nyquist_rel_log"]
    yield "checkerboard at the end of the diagonal", form.high_frequency(checker[None, None]), answer


def _tokens(known: dict[str, Any], dtype: torch.dtype) -> Answers:
    z = tokens(dtype)[None]
    yield "mean cosine of pairs", form.token_similarity(z), known["tokens"]["mean_pair_cosine"]
    yield "variance over tokens", form.token_variance(z), known["tokens"]["variance_over_tokens_ddof1_mean_channels"]


def _sphere(known: dict[str, Any], dtype: torch.dtype) -> Answers:
    answers, z = known["alignment_uniformity"], tokens(dtype)
    yield "alignment", form.alignment(z[0::2], z[1::2]).mean(), answers["alignment_a2"]
    yield "uniformity", form.uniformity(z), answers["uniformity_t2"]
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=dtype)
    yield "antipodes", form.uniformity(pair), answers["antipodal_pair_uniformity_t2"]
    square = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=dtype)
    yield "corners of a square", form.uniformity(square), answers["four_points_of_a_square_uniformity_t2"]


CASES: dict[str, Callable[[dict[str, Any], torch.dtype], Answers]] = {
    "cka": _cka,
    "spectrum": _spectrum,
    "fourier": _fourier,
    "tokens": _tokens,
    "sphere": _sphere,
}
