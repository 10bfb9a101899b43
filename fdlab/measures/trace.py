"""The rest of the spectrum: trace and density, from a Lanczos run and a few random probes.

A Lanczos run leaves A Q = Q H + beta q e_m': but for one vector of size beta, A falls apart into H and the part
on Q's complement. Ignoring that vector changes A by a matrix of rank 2 with singular values beta, which moves
the whole density by at most 2 beta / P on average. So the m values of H are atoms of mass 1 / P, exact in the
trace; the complement, of mass (P - m) / P, is left to probes. Without its outliers it is narrow, which is why few
probes do: this is Hutch++ (Meyer et al. 2021) with the Krylov basis in the place of a sketch, and stochastic
Lanczos quadrature (Golub & Meurant 1994; Ubaru et al. 2017) after deflation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.lanczos import BREAKDOWN, Ritz
from fdlab.measures.products import Product
from fdlab.randomness import seed_for

NEGLIGIBLE = 1e-6  # of the largest magnitude: below it single precision has no sign


@dataclass
class Density:
    """The spectrum as weighted points, and its trace.

    Attributes:
        nodes: (q,) places, ascending.
        weights: (q,) masses, summing to 1; one eigenvalue has mass 1 / P.
        trace: P times the density's mean.
        trace_error: standard error of the trace over the probes; NaN for a single probe, 0 where none is needed.
        probes: random probes behind it.
        size: P.
        products: those of the probes.
        highest: the largest node of a probe: above a wanted eigenvalue, a copy of it was missed.
    """

    nodes: np.ndarray
    weights: np.ndarray
    trace: float
    trace_error: float
    probes: int
    size: int
    products: int
    highest: float

    @property
    def negative_mass(self) -> float:
        """``sum of |lambda| over lambda < 0`` / ``sum of |lambda|``; values too small to have a sign left out."""
        large = np.abs(self.nodes) > NEGLIGIBLE * np.abs(self.nodes).max(initial=0.0)
        mass = np.abs(self.nodes) * self.weights * large
        return float(mass[self.nodes < 0].sum() / mass.sum()) if mass.sum() > 0 else 0.0


def density(
    product: Product,
    ritz: Ritz,
    *,
    probes: int = 4,
    steps: int = 30,
    trace_probes: int = 0,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> Density:
    """Trace and density of the matrix that ``ritz`` was run on.

    Args:
        probes: random directions on the complement of the Krylov basis, each followed for ``steps`` products.
        steps: nodes of each probe's quadrature.
        trace_probes: further directions of one product each, which sharpen the trace alone.
        on_step: told after each product.
    """
    size = ritz.basis.size
    if probes + trace_probes and ritz.basis.rows + steps > ritz.room < size:
        steps = max(1, min(steps, ritz.room // 2))
        ritz.compress(max(1, ritz.room - steps))  # the probes' own vectors need memory too
    rows = ritz.basis.rows
    rest = size - rows
    atoms = ritz.values, np.full(rows, 1 / size)
    exact = float(ritz.values.sum())
    if rest == 0 or probes + trace_probes == 0:
        return Density(*_sorted(*atoms), exact, 0.0 if rest == 0 else float("nan"), 0, size, 0, -np.inf)
    count, means, nodes, weights = 0, [], [atoms[0]], [atoms[1]]
    for probe in range(probes + trace_probes):
        probed = _probe(
            product, ritz, min(steps if probe < probes else 1, rest), _direction(ritz, seed, probe), on_step
        )
        count += probed.products
        means.append(float((probed.nodes * probed.weights).sum()))
        if probe < probes:
            nodes.append(probed.nodes)
            weights.append(probed.weights * rest / size / probes)
    error = float(np.std(means, ddof=1) / np.sqrt(len(means)) * rest) if len(means) > 1 else float("nan")
    trace = exact + rest * float(np.mean(means))
    points = _sorted(np.concatenate(nodes), np.concatenate(weights))
    highest = max((float(part.max()) for part in nodes[1:]), default=-np.inf)
    return Density(*points, trace, error, len(means), size, count, highest)


@dataclass
class _Quadrature:
    nodes: np.ndarray
    weights: np.ndarray  # summing to 1
    products: int


def _direction(ritz: Ritz, seed: int, probe: int) -> Tensor:
    """A uniformly random unit vector of the complement: a Gaussian one, projected."""
    generator = torch.Generator().manual_seed(seed_for(seed, "spectral probe", probe))
    drawn = torch.randn(ritz.basis.size, generator=generator, dtype=ritz.basis.dtype)
    vector, _ = ritz.basis.orthogonalise(drawn)
    return vector / torch.linalg.vector_norm(vector)


def _probe(
    product: Product, ritz: Ritz, steps: int, vector: Tensor, on_step: Callable[[int], None] | None
) -> _Quadrature:
    """Lanczos on the complement from ``vector``; its rows lie behind the basis and are taken away again."""
    basis, kept = ritz.basis, ritz.basis.rows
    diagonal, off = [], []
    scale = np.abs(ritz.values).max()
    floor = max(BREAKDOWN, 50 * torch.finfo(basis.dtype).eps) * scale
    try:
        for _ in range(steps):
            basis.append(vector)
            rest, coefficients = basis.orthogonalise(product(vector))
            diagonal.append(float(coefficients[-1]))
            off.append(float(torch.linalg.vector_norm(rest)))
            if on_step is not None:
                on_step(len(diagonal))
            if off[-1] <= floor:
                break
            vector, _ = basis.orthogonalise(rest / off[-1])
            vector /= torch.linalg.vector_norm(vector)
    finally:
        basis.truncate(kept)
    matrix = np.diag(diagonal) + np.diag(off[: len(diagonal) - 1], 1) + np.diag(off[: len(diagonal) - 1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return _Quadrature(values, vectors[0] ** 2, len(diagonal))


def _sorted(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(nodes)
    return nodes[order], weights[order]


def smoothed(nodes: np.ndarray, weights: np.ndarray, at: np.ndarray, width: float) -> np.ndarray:
    """The density at ``at``, each node blurred by a Gaussian of this standard deviation: for drawing only."""
    distance = (at[:, None] - nodes[None, :]) / width
    return np.exp(-0.5 * distance**2) @ weights / (width * np.sqrt(2 * np.pi))
