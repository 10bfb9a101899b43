"""The known answers of curvature_truth.json, each built from its rule and measured: the tests and the doctor run them.

A case gives (what, measured, expected, tolerance relative to the largest expected magnitude). The truth is exact by
construction; quantities that random probes estimate are checked against their own standard error instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import resources
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlab.known_answers.check import Check
from fdlab.measures.directions import moving, normalised
from fdlab.measures.lanczos import lanczos
from fdlab.measures.products import Curvature, GaussNewton, Hessian
from fdlab.measures.sharpness import crossing, losses_around, noise, noise_curve, worst_case
from fdlab.measures.spectrum import hessian_spectrum
from fdlab.measures.surface import odd_grid
from fdlab.measures.trace import density

CAP = 200  # steps: some of these spectra have no gaps


@cache
def truth() -> dict[str, Any]:
    """curvature_truth.json."""
    text = resources.files("fdlab.known_answers").joinpath("curvature_truth.json").read_text(encoding="utf-8")
    return json.loads(text)


def run_case(name: str, dtype: torch.dtype = torch.float64) -> list[Check]:
    """All checks of one case."""
    return list(CASES[name](truth()[name], dtype))


# --- matrices given by their eigenvalues -------------------------------------------------------------------------


def mirrored(values: Tensor) -> Tensor:
    """H diag(values) H, H the reflection along u_i = sin(i): the spectrum is known, the matrix is full."""
    u = torch.sin(torch.arange(1, len(values) + 1, dtype=torch.float64))
    mirror = torch.eye(len(values), dtype=torch.float64) - 2 * torch.outer(u, u) / (u @ u)
    return mirror @ torch.diag(values) @ mirror


def given_spectrum(name: str) -> Tensor:
    """The eigenvalues of a case, by its rule."""
    if name == "quadratic_outliers":
        k, j, m = (torch.arange(*ends, dtype=torch.float64) for ends in ((1, 11), (0, 540), (1, 51)))
        return torch.cat([100 / k**1.5, (j / 539) ** 3, -2 * (m / 50) ** 2])
    if name == "negative_dominates":
        return torch.cat([torch.tensor([-5.0], dtype=torch.float64), 3 * torch.arange(199, dtype=torch.float64) / 198])
    return torch.tensor([7.0] * 4 + [2.0] * 3 + [0.0] * 93, dtype=torch.float64)


def _given(name: str) -> Callable[[dict[str, Any], torch.dtype], Iterator[Check]]:
    def checks(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
        values = given_spectrum(name)
        matrix = mirrored(values).to(dtype)
        if name == "quadratic_outliers":
            yield from _numbers("diagonal", matrix.diagonal()[:3].tolist(), known["diag_first3"], dtype)
        ritz = lanczos(
            lambda v: matrix @ v, len(values), tolerance=1e-6 if dtype == torch.float64 else 1e-4, cap=CAP, dtype=dtype
        )
        yield from _ends(ritz.top(5)[0], ritz.lowest[0], known, dtype)
        estimate = density(lambda v: matrix @ v, ritz, probes=4, trace_probes=12)
        yield _within("trace", estimate.trace, known["trace"], 4 * estimate.trace_error, dtype)

    return checks


# --- layers whose Hessian is known ---------------------------------------------------------------------------------


def cosine_inputs() -> Tensor:
    """(64, 12) with X'X / 64 = diag(2^-j)."""
    k, j = torch.arange(64, dtype=torch.float64)[:, None], torch.arange(12, dtype=torch.float64)[None]
    return np.sqrt(64) * 2 ** (-j / 2) * np.sqrt(2 / 64) * torch.cos(torch.pi * (k + 0.5) * (j + 1) / 64)


def _least_squares(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    inputs = cosine_inputs().to(dtype)
    layer = nn.Linear(12, 5, bias=False).to(dtype)
    target = torch.linspace(-1, 1, 64 * 5, dtype=dtype).view(64, 5)

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (module(batch[0]) - batch[1]).square().sum(1).mean()

    yield from _module(layer, loss, list(zip(inputs.split(24), target.split(24), strict=True)), known, dtype)


def _softmax_at_zero(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    inputs, labels = cosine_inputs().to(dtype), torch.arange(64) % 10
    layer = nn.Linear(12, 10, bias=False).to(dtype)
    nn.init.zeros_(layer.weight)
    batches = list(zip(inputs.split(24), labels.split(24), strict=True))

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1])

    yield from _module(layer, loss, batches, known, dtype)


def _module(
    layer: nn.Module, loss: Any, batches: list[Any], known: dict[str, Any], dtype: torch.dtype
) -> Iterator[Check]:
    result = hessian_spectrum(layer, loss, batches, tolerance=1e-6, probes=4)
    yield from _ends(result.eigenvalues, result.lowest, known, dtype)
    yield _within("trace", result.trace, known["trace"], 4 * result.trace_error, dtype)


def two_layers(case: str, dtype: torch.dtype) -> tuple[list[nn.Parameter], Hessian, GaussNewton]:
    """L = |W2 W1 - M|_F^2 / 2 of the three two-layer cases, with its Hessian and its Gauss-Newton matrix."""
    a, b = [2.0, 1.5, 1, 0.5, 0.25, 0.125], [3.0, 1, 0.8, 0.6, 0.4, 0.2]
    first, second = (torch.diag(torch.tensor(values, dtype=torch.float64)) for values in (a, b))
    target = second @ first
    if case == "two_layer_off_minimum":
        target = target - torch.diag(torch.tensor([0.5, -0.4, 0.3, -0.2, 0.1, 0], dtype=torch.float64))
    if case == "two_layer_rescaled":
        first, second = first * 4, second / 4
    target = target.to(dtype)
    parameters = [nn.Parameter(w.to(dtype)) for w in (first, second)]

    def output(_batch: Any) -> Tensor:
        return parameters[1] @ parameters[0]

    def criterion(product: Tensor, _batch: Any = None) -> Tensor:
        return 0.5 * (product - target).square().sum()

    exact = Hessian(lambda batch: criterion(output(batch)), parameters, [None], [1])
    return parameters, exact, GaussNewton(output, criterion, parameters, [None], [1])


def _two_layers(case: str) -> Callable[[dict[str, Any], torch.dtype], Iterator[Check]]:
    def checks(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
        _, exact, gauss = two_layers(case, dtype)
        yield from _curvature(exact, known, dtype)
        at_minimum = truth()["two_layer_rescaled" if case == "two_layer_rescaled" else "two_layer_min"]
        for check in _curvature(gauss, at_minimum, dtype):
            yield check._replace(what=f"Gauss-Newton {check.what}")
        if case == "two_layer_rescaled":
            top = lanczos(exact, exact.size, 1, dtype=dtype, cap=CAP).top(1)[0][0]
            ratio = top / truth()["two_layer_min"]["top5"][0]
            yield from _numbers("ratio to two_layer_min", [ratio], [known["top_ratio_to_two_layer_min"]], dtype)

    return checks


def _curvature(matrix: Curvature, known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    ritz = lanczos(matrix, matrix.size, tolerance=1e-6 if dtype == torch.float64 else 1e-4, cap=CAP, dtype=dtype)
    yield from _ends(ritz.top(5)[0], ritz.lowest[0], known, dtype)
    estimate = density(matrix, ritz, probes=4, trace_probes=8)
    yield _within("trace", estimate.trace, known["trace"], 4 * estimate.trace_error, dtype)


def _micro_batch_weights(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    weight = nn.Parameter(torch.ones(1, dtype=dtype))
    scales = torch.arange(1, 11, dtype=dtype)

    def loss(batch: Tensor) -> Tensor:
        return (batch * weight**2 / 2).mean()

    parts = scales.split(4)
    matrix = Hessian(loss, [weight], parts, [len(part) for part in parts])
    yield from _numbers("second derivative", [float(matrix(torch.ones(1, dtype=dtype)))], [known["right"]], dtype)


def _hutchinson(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    matrix = mirrored(given_spectrum("quadratic_outliers"))
    off = matrix - torch.diag(matrix.diagonal())
    spread = float((2 * off.square().sum()).sqrt())
    yield from _numbers(
        "deviation of one probe", [spread], [known["quadratic_outliers_std_of_one_probe"]], torch.float32
    )


def _sharpness(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    """The quadratic at its minimum: worst cases to their tolerance, averages within three standard errors."""
    matrix = mirrored(torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)).to(dtype)
    start = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0], dtype=dtype)
    weight = nn.Parameter(start.clone())

    def losses() -> Tensor:
        return (0.5 * (weight - start) @ matrix @ (weight - start))[None]

    def gradient() -> dict[str, Tensor]:
        return {"w": matrix @ (weight.detach() - start)}

    with moving({"w": weight}) as place, torch.no_grad():
        for name, adaptive in (("worst_l2_rho_0p1", False), ("adaptive_worst_l2_rho_0p1", True)):
            worst = worst_case(place, losses, gradient, 0.1, adaptive=adaptive, steps=80)
            yield from _numbers(name, [float(worst.losses.mean())], [known[name]], dtype)
        for name, adaptive in (("average_sigma_0p1", False), ("adaptive_average_rho_0p1", True)):
            step = partial(noise, place.start, 0, adaptive=adaptive)
            rises = losses_around(place, losses, step, 400, 0.1, lambda: None)
            yield Check(name, float(rises.mean()), known[name], 3 * float(rises.std()) / 20)
        step = partial(noise, place.start, 0)
        curve = noise_curve(place, losses, step, 400, level=0.1)
        level = float(crossing(curve.amounts, curve.rise().mean((0, 1))[None])[0])
        spread = curve.rise()[:, 0, -1].std() / curve.rise()[:, 0, -1].mean() / 20
        yield Check("sigma_star_rise_0p1", level, known["sigma_star_rise_0p1"], float(1.5 * spread * level))


def _filter_norm(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    weight, draw, rows = (torch.tensor(known[name], dtype=torch.float64) for name in ("weight", "d", "rows"))
    scaled = normalised(weight.to(dtype), draw.to(dtype))
    yield from _numbers("row", scaled.flatten().tolist(), rows.flatten().tolist(), dtype)


def _plane_axes(known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    """Rows are the second direction, columns the first, the weights in the middle."""
    weight = nn.Parameter(torch.zeros(2, dtype=dtype))
    first, second = ({"w": axis} for axis in torch.eye(2, dtype=dtype))
    grid, losses = odd_grid(1.0, 3), []
    with moving({"w": weight}) as place, torch.no_grad():
        for up in grid:
            for across in grid:
                place.go((float(across), first), (float(up), second))
                losses.append(float(weight[0] + 10 * weight[1] + 3))
    yield from _numbers("cell", losses, [float(value) for line in known["Z"] for value in line], dtype)
    yield from _numbers("middle", [losses[4]], [float(known["centre"])], dtype)


CASES: dict[str, Callable[[dict[str, Any], torch.dtype], Iterator[Check]]] = {
    "quadratic_outliers": _given("quadratic_outliers"),
    "negative_dominates": _given("negative_dominates"),
    "multiplicity": _given("multiplicity"),
    "least_squares": _least_squares,
    "softmax_at_zero": _softmax_at_zero,
    "two_layer_min": _two_layers("two_layer_min"),
    "two_layer_off_minimum": _two_layers("two_layer_off_minimum"),
    "two_layer_rescaled": _two_layers("two_layer_rescaled"),
    "micro_batch_weights": _micro_batch_weights,
    "hutchinson_notes": _hutchinson,
    "sharpness_quadratic": _sharpness,
    "filter_norm": _filter_norm,
    "plane_axes": _plane_axes,
}


# --- checks -----------------------------------------------------------------------------------------------------------


def _ends(top: np.ndarray, lowest: float, known: dict[str, Any], dtype: torch.dtype) -> Iterator[Check]:
    yield from _numbers("eigenvalue", [*top, lowest], [*known["top5"], known["lowest"]], dtype)


def _numbers(what: str, measured: list[Any], expected: list[float], dtype: torch.dtype) -> Iterator[Check]:
    scale = max(abs(value) for value in expected)
    tolerance = (1e-8 if dtype == torch.float64 else 1e-4) * scale
    for number, (got, want) in enumerate(zip(measured, expected, strict=True), start=1):
        yield Check(f"{what} {number}" if len(expected) > 1 else what, float(got), want, tolerance)


def _within(what: str, measured: float, expected: float, error: float, dtype: torch.dtype) -> Check:
    """An estimate against its own standard error; exact where the basis spans everything that there is."""
    floor = (1e-8 if dtype == torch.float64 else 1e-4) * abs(expected)
    return Check(what, measured, expected, max(error, floor))
