"""Sharpness arithmetic: crossings of power laws, searches on common random numbers, two-level intervals."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fdlab.measures.directions import filter_direction, moving
from fdlab.measures.sharpness import crossing, losses_around, noise, noise_curve, worst_case
from fdlab.randomness import stream
from fdlab.records.intervals import two_level_interval

# The quadratic with a known answer is a case of curvature_truth.json (test_curvature.py).


@given(st.floats(0.5, 4), st.floats(1e-3, 5), st.integers(2, 9))
def test_crossing_is_exact_for_powers(power: float, scale: float, points: int) -> None:
    amounts = scale * np.geomspace(0.1, 10, points)
    rise = 0.1 * (amounts / scale) ** power
    assert crossing(amounts, rise[None])[0] == pytest.approx(scale, rel=1e-9)


def test_crossing_at_the_ends_and_through_infinity() -> None:
    amounts = np.array([1.0, 2.0, 4.0])
    rise = np.array([[0.2, 0.3, 0.4], [0.0, 0.01, 0.02], [-0.1, 0.3, 0.5], [0.05, np.inf, np.inf]])
    found = crossing(amounts, rise)
    assert found[0] == 1.0  # above the level from the start
    assert found[1] == 4.0  # never reached
    assert found[2] == pytest.approx(2**0.5)  # half of the way from -0.1 to 0.3
    assert 1.0 < found[3] <= 2.0


def quadratic(weight: Tensor, curvature: Tensor, images: int = 4) -> Tensor:
    return 0.5 * (curvature * weight.square()).sum() * torch.linspace(0.5, 1.5, images, dtype=weight.dtype)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_the_search_finds_the_noise_whatever_the_scale(scale: float) -> None:
    weight = torch.zeros(6, 8, dtype=torch.float64, requires_grad=True)
    curvature = torch.full((6, 8), scale, dtype=torch.float64)
    with moving({"w": weight}) as place, torch.no_grad():
        step = partial(noise, place.start, 0)
        curve = noise_curve(place, lambda: quadratic(weight, curvature), step, 200)
    assert curve.losses.shape == (200, len(curve.amounts), 4)
    expected = (0.2 / (scale * 48)) ** 0.5
    assert crossing(curve.amounts, curve.rise().mean((0, 1))[None])[0] == pytest.approx(expected, rel=0.04)
    assert curve.amounts[0] < expected < curve.amounts[-1]
    assert torch.equal(weight, torch.zeros_like(weight))


def test_the_same_step_for_every_model_by_name_and_number() -> None:
    one, two = ({"a": torch.ones(3, 3), "b": torch.ones(2)} for _ in range(2))
    assert all(torch.equal(noise(one, 5, 1)[n], noise({**two, "c": torch.ones(4)}, 5, 1)[n]) for n in one)
    assert not torch.equal(noise(one, 5, 1)["a"], noise(one, 5, 2)["a"])
    assert not torch.equal(noise(one, 5, 1)["a"], noise(one, 6, 1)["a"])
    doubled = noise({"a": 2 * one["a"]}, 5, 1, adaptive=True)["a"]
    assert torch.equal(doubled, 2 * noise(one, 5, 1)["a"])


def test_weights_of_zero_do_not_move_where_adaptive() -> None:
    weight = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    curvature = torch.tensor([1.0, 100.0, 3.0], dtype=torch.float64)
    start = weight.detach().clone()

    def losses() -> Tensor:
        return (0.5 * curvature * (weight - start).square()).sum()[None]

    def gradient() -> dict[str, Tensor]:
        return {"w": curvature * (weight.detach() - start)}

    with moving({"w": weight}) as place, torch.no_grad():
        found = worst_case(place, losses, gradient, 0.1, adaptive=True, steps=200)
        assert float(found.losses) == pytest.approx(0.5 * 0.01 * 4.0, rel=1e-8)  # max of c w^2, the zero left out
        moved = losses_around(place, losses, partial(noise, place.start, 0, adaptive=True), 5, 0.1, lambda: None)
    assert torch.isfinite(moved).all()
    assert float(moved.max()) < 1  # the curvature of 100 is not felt


def test_an_ascent_is_never_below_the_start() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def losses() -> Tensor:
        return -weight.square().sum()[None]  # a maximum: every step falls

    with moving({"w": weight}) as place, torch.no_grad():
        found = worst_case(place, losses, lambda: {"w": -2 * weight.detach()}, 0.5, steps=5)
    assert float(found.losses) == 0.0  # the place of departure is the best one
    assert max(found.path) <= 0


def test_weights_come_back_after_an_exception() -> None:
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before = weight.detach().clone()

    def losses() -> Tensor:
        if not torch.equal(weight, before):
            raise KeyboardInterrupt
        return weight.sum()[None]

    with pytest.raises(KeyboardInterrupt), moving({"w": weight}) as place:
        noise_curve(place, losses, partial(filter_direction, place.start, 0), 3)
    assert torch.equal(weight, before)


def test_two_level_intervals_cover_directions_and_images() -> None:
    """Values = a + b_k + c_i: both kinds of scatter must be in the interval (nominal 0.95)."""
    covered = {(20, 64): 0, (6, 12): 0}
    for sizes in covered:
        for trial in range(200):
            draw = stream(trial, "two levels", *sizes)
            values = draw.normal(0, 1, sizes[0])[:, None] + draw.normal(0, 2, sizes[1])[None]
            found = two_level_interval(values, lambda means: means, trial)
            covered[sizes] += bool(found.low <= 0 <= found.high)
    assert 0.89 <= covered[20, 64] / 200 <= 0.99, covered
    assert 0.90 <= covered[6, 12] / 200 <= 1.0, covered


def test_one_direction_has_no_interval_below_32_images() -> None:
    found = two_level_interval(np.ones((1, 8)), lambda means: means)
    assert found.value == 1.0
    assert np.isnan(found.low)
