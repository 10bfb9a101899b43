"""How much the loss rises around a model's weights: average, worst case, element-wise adaptive, noise to a rise.

Definitions after Andriushchenko et al. 2023 (arXiv 2302.07011), with c = 1 (plain) or c = abs(w) (adaptive, after
Kwon et al. 2021, ASAM): average E L(w + rho c d) - L(w) with d ~ N(0, 1); worst case max over |d/c|_2 <= rho. At a
minimum with Hessian A: rho^2 tr(A) / 2, rho^2 lambda_max / 2 and rho^2 sum_i w_i^2 A_ii / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.directions import Place
from fdlab.randomness import seed_for

Steps = dict[str, Tensor]
Losses = Callable[[], Tensor]  # (n,) one loss an image, at the present weights
SMALLEST, LARGEST = 1e-4, 16.0  # amplitudes between which a rise is looked for


@torch.no_grad()
def noise(parameters: Mapping[str, Tensor], seed: int, number: int, *, adaptive: bool = False) -> Steps:
    """One Gaussian step, a function of (seed, number, parameter name); ``adaptive``: times abs(w) element-wise."""
    step = {}
    for name, weight in parameters.items():
        generator = torch.Generator().manual_seed(seed_for(seed, f"noise/{name}", number))
        draw = torch.randn(weight.shape, generator=generator, dtype=torch.float32).to(weight)
        step[name] = draw * weight.detach().abs() if adaptive else draw
    return step


@torch.no_grad()
def losses_around(
    place: Place, losses: Losses, step: Callable[[int], Steps], count: int, amount: float, done: Callable[[], None]
) -> Tensor:
    """(count, n) losses at start + amount x step(k), k = 0 ... count - 1."""
    rows = []
    for number in range(count):
        place.go((amount, step(number)))
        rows.append(losses().double().cpu())
        done()
    place.back()
    return torch.stack(rows)


# --- worst case -------------------------------------------------------------------------------------------------


class Worst(NamedTuple):
    """The worst place found: (n,) losses there, and the mean loss after each ascent step."""

    losses: Tensor
    path: list[float]


def worst_case(
    place: Place,
    losses: Losses,
    gradient: Callable[[], Steps],
    radius: float,
    *,
    adaptive: bool = False,
    steps: int = 20,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> Worst:
    """The largest mean loss with |d/c|_2 <= radius, by ascent on the sphere from a random start; the best place counts.

    A step turns the position u = d/c towards the gradient's direction: u <- radius x unit(unit(u) + unit(c g)). It is
    a lower bound of the true worst case. Weights that are 0 do not move where ``adaptive``.
    """
    scale = {n: w.abs() if adaptive else torch.ones_like(w) for n, w in place.start.items()}
    start = noise(place.start, seed, 0)
    position = _unit({name: scale[name].sign() * draw for name, draw in start.items()})
    best, path = losses().double().cpu(), []
    for step in range(steps + 1):
        place.go((radius, {name: scale[name] * part for name, part in position.items()}))
        now = losses().double().cpu()
        path.append(float(now.mean()))
        if math.isfinite(path[-1]) and path[-1] > float(best.mean()):
            best = now
        done()
        if step < steps:
            slope = gradient()
            uphill = _unit({name: scale[name] * slope[name] for name in position})
            position = _unit({name: part + uphill[name] for name, part in position.items()})
    place.back()
    return Worst(best, path)


def _unit(step: Steps) -> Steps:
    """The step with length 1 over all parameters together; a step of zero stays zero."""
    length = math.sqrt(sum(float(part.double().square().sum()) for part in step.values()))
    return {name: part / length for name, part in step.items()} if length > 0 else step


# --- noise to a rise --------------------------------------------------------------------------------------------


class NoiseCurve(NamedTuple):
    """Losses over amplitudes: (A,) amplitudes upwards, (K, A, n) losses, (n,) losses at the start."""

    amounts: np.ndarray
    losses: np.ndarray
    base: np.ndarray

    def rise(self) -> np.ndarray:
        """(K, n, A): the rise of every direction and image."""
        return np.moveaxis(self.losses - self.base, 1, 2)


def noise_curve(
    place: Place,
    losses: Losses,
    step: Callable[[int], Steps],
    count: int,
    *,
    level: float = 0.1,
    refine: int = 3,
    done: Callable[[], None] = lambda: None,
) -> NoiseCurve:
    """Losses at the amplitudes that a search for a mean rise of ``level`` visits, the same directions at each.

    Doubling or halving from 0.1 until the level is between two amplitudes, ``refine`` bisections of their logarithm,
    and one amplitude more on either side for the resampled curves.
    """
    base = losses().double().cpu()
    known: dict[float, Tensor] = {}

    def rises(amount: float) -> bool:
        known[amount] = losses_around(place, losses, step, count, amount, done)
        rise = float((known[amount] - base).mean())
        return not rise < level  # a loss that is not finite has risen

    low = high = 0.1
    if rises(0.1):
        while low > SMALLEST:
            low, high = low / 2, low
            if not rises(low):
                break
    else:
        while high < LARGEST:
            low, high = high, high * 2
            if rises(high):
                break
    for _ in range(refine):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    rises(low / math.sqrt(2))
    rises(high * math.sqrt(2))
    amounts = sorted(known)
    stacked = torch.stack([known[amount] for amount in amounts], 1)
    return NoiseCurve(np.array(amounts), stacked.numpy(), base.numpy())


def crossing(amounts: np.ndarray, rise: np.ndarray, level: float = 0.1) -> np.ndarray:
    """(R,): where curves (R, A) first reach ``level``, on straight lines between logarithms of both.

    The first or last amplitude where a curve starts above the level or never reaches it.

    >>> crossing(np.array([1.0, 2.0, 4.0]), np.array([[0.01, 0.04, 0.16]]), level=0.09)  # rise = 0.01 amount^2
    array([3.])
    """
    above = ~(rise < level)
    reached = above.any(1)
    at = np.where(reached, above.argmax(1), len(amounts) - 1)
    before = np.maximum(at - 1, 0)
    row = np.arange(len(rise))
    y0, y1 = rise[row, before], rise[row, at]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        power = np.log(level / y0) / np.log(y1 / y0)  # exact where the rise is a power of the amplitude
        line = (level - y0) / (y1 - y0)
        share = np.where((y0 > 0) & np.isfinite(y1), power, np.where(np.isfinite(y1), line, 1.0))
        found = amounts[before] * (amounts[at] / amounts[before]) ** share
    return np.where(reached & (at > 0), found, amounts[at])
