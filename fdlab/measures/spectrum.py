"""``hessian_spectrum``: what is known of the second derivatives of a loss, from one Lanczos run and a few probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fdlab.errors import USAGE, FdlabError
from fdlab.measures.lanczos import CAP, START, Ritz, lanczos
from fdlab.measures.products import Curvature, Hessian, check_module
from fdlab.measures.trace import Density, density


@dataclass
class Spectrum:
    """The spectrum of a symmetric matrix of P x P second derivatives.

    Attributes:
        eigenvalues: (k,) the largest, algebraic order, largest first.
        residuals: (k,) a true eigenvalue lies within this distance of each.
        lowest, lowest_residual: the same for the lowest.
        trace, trace_error: estimate and its standard error over the probes.
        nodes, weights: the spectral density as points and masses (sum 1; one eigenvalue is 1 / P).
        negative_mass: share of the negative eigenvalues in the sum of magnitudes.
        parameters: P.
        products: matrix-vector products used, all in all.
        converged: the residuals asked for were met within the steps allowed.
        note: what was unusual, in words.
    """

    eigenvalues: np.ndarray
    residuals: np.ndarray
    lowest: float
    lowest_residual: float
    trace: float
    trace_error: float
    nodes: np.ndarray
    weights: np.ndarray
    negative_mass: float
    parameters: int
    products: int
    converged: bool
    note: str
    ritz: Ritz
    density: Density
    loss: float = float("nan")
    gradient_norm: float = float("nan")

    def eigenvector(self, rank: int) -> Tensor:
        """(P,) unit vector of the ``rank``-th largest eigenvalue from 0, -1 for the lowest, in parameter order.

        Raises:
            FdlabError: the basis was given up to save memory.
        """
        return self.ritz.eigenvector(rank)


def spectrum(
    matrix: Curvature,
    *,
    k: int = 5,
    probes: int = 4,
    trace_probes: int = 0,
    seed: int = 0,
    tolerance: float = 0.01,
    start: int = START,
    cap: int = CAP,
    probe_steps: int = 30,
    budget: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Spectrum:
    """The spectrum of a matrix known by its products; see ``lanczos`` and ``density`` for the settings."""
    if k < 1:
        raise FdlabError(f"k = {k} eigenvalues cannot be looked for.", fix="Give k >= 1.", code=USAGE)
    before = matrix.products
    common: dict[str, Any] = {"seed": seed, "on_step": on_step}
    settings: dict[str, Any] = {
        "tolerance": tolerance,
        "device": matrix.device,
        "dtype": matrix.dtype,
        "budget": budget,
        **common,
    }
    with matrix.keeping():
        ritz = lanczos(matrix, matrix.size, k, start=start, cap=cap, **settings)
        rest = density(matrix, ritz, probes=probes, steps=probe_steps, trace_probes=trace_probes, **common)
        if rest.highest > ritz.top(k)[0][-1] + 1e-3 * abs(ritz.values).max():  # a copy that one Krylov space cannot see
            ritz = lanczos(matrix, matrix.size, k, again=True, start=start, cap=2 * cap, **settings)
            rest = density(matrix, ritz, probes=probes, steps=probe_steps, trace_probes=trace_probes, **common)
    values, bounds = ritz.top(k)
    lowest, lowest_bound = ritz.lowest
    return Spectrum(
        values, bounds, lowest, lowest_bound, rest.trace, rest.trace_error, rest.nodes, rest.weights,
        rest.negative_mass, matrix.size, matrix.products - before, ritz.converged, ritz.note, ritz, rest,
    )  # fmt: skip


def hessian_spectrum(
    module: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Sequence[Any],
    *,
    k: int = 5,
    probes: int = 4,
    seed: int = 0,
    tolerance: float = 0.01,
    parameters: Sequence[Tensor] | None = None,
    budget: int | None = None,
) -> Spectrum:
    """Eigenvalues, trace and density of the Hessian of any module's mean loss.

    Args:
        module: in eval mode, or at least without active dropout and BatchNorm.
        loss: ``loss(module, batch)``, the mean over the batch.
        batches: fixed micro-batches, each (inputs, ...); a batch of n_i of N images weighs n_i / N.
        k: how many of the largest eigenvalues.
        probes: random probes for trace and density, 30 products each; 0: eigenvalues alone.
        tolerance: the residual bound asked for, relative to each eigenvalue.
        parameters: over which the derivatives are taken; by default all that require a gradient.
        budget: bytes for the basis; by default half of the free memory.

    Raises:
        FdlabError: no parameters or batches, a loss that changes between calls, weights that are not finite,
            a layer without a second derivative, too little memory.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> data = [(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1))]
        >>> spectrum = hessian_spectrum(layer, lambda m, b: 0.5 * ((m(b[0]) - b[1]) ** 2).sum() / 2, data, k=2)
        >>> [round(float(value), 6) for value in spectrum.eigenvalues]
        [2.0, 0.5]
    """
    check_module(module)
    over = [p for p in module.parameters() if p.requires_grad] if parameters is None else list(parameters)
    if not over or not batches:
        what = "parameters" if not over else "batches"
        raise FdlabError(
            f"There are no {what}.", fix="Give a module whose weights require a gradient, and data.", code=USAGE
        )
    matrix = Hessian(lambda batch: loss(module, batch), over, batches, [_count(batch) for batch in batches])
    value = matrix.mean_loss()
    check_repeatable(value, matrix.mean_loss())
    result = spectrum(matrix, k=k, probes=probes, seed=seed, tolerance=tolerance, budget=budget)
    result.loss, result.gradient_norm = value, float(torch.linalg.vector_norm(matrix.gradient()))
    return result


def check_repeatable(first: float, second: float) -> None:
    """Refuses a loss that is not a number or not the same at two calls.

    Raises:
        FdlabError: it is not.
    """
    if not np.isfinite(first):
        raise FdlabError("The loss is not finite.", fix="Check the weights and the images.", code=USAGE)
    if abs(first - second) > 1e-4 * abs(first) + 1e-7:
        raise FdlabError(
            "The loss changes from call to call.",
            f"{first:.6g}, then {second:.6g}, on the same batches: dropout, masks or augmentation are drawn anew.",
            "Fix what is random (module.eval(), one seed a batch).",
            USAGE,
        )


def _count(batch: Any) -> int:
    """Images in a batch: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return _count(first)
