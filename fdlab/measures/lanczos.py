"""One Lanczos run: the largest and the lowest eigenvalues of a symmetric matrix known by its products.

Full re-orthogonalisation (without it 80 steps in float32 show eight copies of one eigenvalue), a residual bound
for every value, orthogonal restarts at breakdown (a single Krylov space sees a repeated eigenvalue once), and
thick restarts where the basis does not fit into memory (Wu & Simon 2000). Lanczos 1950; Parlett 1998, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.basis import Basis, plan_rows
from fdlab.measures.products import Product
from fdlab.randomness import seed_for

START, CAP = 30, 100
FURTHER = 12  # steps of a further Krylov space before it is judged
BREAKDOWN = 1e-10  # of the scale; in single precision rounding hides anything smaller than some 50 units


@dataclass
class Ritz:
    """The result of a run: A Q = Q H + beta q e_m', so that H's eigenvalues approximate A's.

    Attributes:
        basis: Q, m orthonormal rows of length P.
        values: (m,) float64 ascending, H's eigenvalues.
        vectors: (m, m), H's eigenvectors as columns.
        bounds: (m,): an eigenvalue of A lies within this distance of the value (rounding aside).
        coupling: beta; the last vector's tie to everything outside of the basis.
        steps: products used.
        converged: the bounds asked for were met.
        room: rows that memory allows.
        note: what was unusual: restarts, a basis in the host's memory.
    """

    basis: Basis
    values: np.ndarray
    vectors: np.ndarray
    bounds: np.ndarray
    coupling: float
    steps: int
    converged: bool
    room: int
    note: str = ""

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest (algebraic) values, largest first, and their bounds; NaN beyond what there is."""
        values, bounds = np.full(k, np.nan), np.full(k, np.nan)
        known = min(k, len(self.values))
        values[:known], bounds[:known] = self.values[::-1][:known], self.bounds[::-1][:known]
        return values, bounds

    @property
    def lowest(self) -> tuple[float, float]:
        """The lowest value and its bound."""
        return float(self.values[0]), float(self.bounds[0])

    def eigenvector(self, rank: int) -> Tensor:
        """(P,) of unit length: the vector of the ``rank``-th largest value, from 0; -1 for the lowest."""
        column = len(self.values) - 1 - rank if rank >= 0 else 0
        return self.basis.combine(torch.from_numpy(self.vectors[:, column].copy()))

    def compress(self, rows: int) -> None:
        """Keeps the values of largest magnitude alone, so that memory is free for other vectors."""
        if rows < len(self.values):
            kept = np.sort(np.argsort(-np.abs(self.values))[:rows])
            self.basis.rotate(torch.from_numpy(self.vectors[:, kept].copy()))
            self.values, self.bounds, self.vectors = self.values[kept], self.bounds[kept], np.eye(rows)


def lanczos(
    product: Product,
    size: int,
    k: int = 5,
    *,
    seed: int = 0,
    tolerance: float = 0.01,
    start: int = START,
    cap: int = CAP,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    budget: int | None = None,
    again: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Ritz:
    """The k largest and the lowest eigenvalues.

    Args:
        product: (P,) -> (P,), symmetric and the same at every call.
        size: P.
        tolerance: the bound asked for, relative to each wanted value (or a thousandth of the largest magnitude).
        start: steps before the bounds are looked at; more follow until they are met.
        cap: steps at most.
        budget: bytes for the basis; by default half of the free memory.
        again: look for repeated eigenvalues in a second Krylov space even where nothing points to them. They
            are looked for anyway after a breakdown, or where rounding has let a second copy appear.
        on_step: told the number of steps done.

    Raises:
        FdlabError: code 4, the basis does not fit.

    >>> diagonal = torch.tensor([3.0, 1.0, -2.0, 0.5])
    >>> ritz = lanczos(lambda vector: diagonal * vector, 4, k=2)
    >>> ritz.top(2)[0].round(4).tolist(), round(ritz.lowest[0], 4)
    ([3.0, 1.0], -2.0)
    """
    cap = min(cap, size)
    start = size if size == cap else min(start, cap)  # so few parameters are seen whole
    where, rows, note = plan_rows(
        size, min(size, cap + START), min(cap, 2 * k + 8), device=torch.device(device), dtype=dtype, budget=budget
    )
    run = _Run(Basis(size, device=where, dtype=dtype), rows, seed)
    run.open()
    while run.steps < cap:
        if run.full:
            run.restart(keep=min(rows - 4, k + 4 + rows // 4))
        run.step(product)
        if on_step is not None:
            on_step(run.steps)
        enough = run.since >= (FURTHER if run.opened > 1 else start)
        if run.basis.rows == size or ((run.broken or (enough and run.within(k, tolerance))) and run.settled(k, again)):
            run.converged = True
            break
        if run.residual is None:
            run.open()
    return run.result(note)


class _Run:
    """The state of a run: the basis, the projected matrix and the residual that becomes the next row."""

    def __init__(self, basis: Basis, rows: int, seed: int) -> None:
        self.basis, self.rows = basis, rows
        self.projected = np.zeros((0, 0))
        self.residual: Tensor | None = None
        self.coupling = self.scale = 0.0
        self.steps = self.since = self.opened = self.restarted = 0
        self.converged = self.broken = False
        self.before: np.ndarray | None = None  # the top values before the last further space
        self.generator = torch.Generator().manual_seed(seed_for(seed, "lanczos"))

    @property
    def full(self) -> bool:
        return self.basis.rows >= self.rows

    def open(self) -> None:
        """A random unit vector orthogonal to everything so far becomes the next row."""
        draw = torch.randn(self.basis.size, generator=self.generator, dtype=self.basis.dtype)
        vector, _ = self.basis.orthogonalise(draw)
        self.residual = vector / torch.linalg.vector_norm(vector)
        self.coupling, self.broken = 0.0, False
        self.opened, self.since = self.opened + 1, 0

    def step(self, product: Product) -> None:
        """One product: the residual becomes a row, its image gives the matrix a row and the next residual."""
        assert self.residual is not None
        self.basis.append(self.residual)
        image = product(self.residual)
        rest, coefficients = self.basis.orthogonalise(image)
        grown = np.zeros((self.basis.rows, self.basis.rows))
        grown[:-1, :-1] = self.projected
        grown[:, -1] = grown[-1, :] = coefficients.numpy()
        self.projected = grown
        self.coupling = float(torch.linalg.vector_norm(rest))
        self.scale = max(self.scale, float(torch.linalg.vector_norm(image)))
        floor = max(BREAKDOWN, 50 * torch.finfo(self.basis.dtype).eps) * self.scale
        self.broken = self.coupling <= floor
        self.residual = None if self.broken else rest / self.coupling
        if self.residual is not None:  # dividing a short vector brings back what rounding left
            self.residual, _ = self.basis.orthogonalise(self.residual)
            self.residual /= torch.linalg.vector_norm(self.residual)
        self.steps, self.since = self.steps + 1, self.since + 1

    def restart(self, keep: int) -> None:
        """Keeps the Ritz vectors nearest to both ends: more of the top, where the wanted values are."""
        values, vectors = np.linalg.eigh(self.projected)
        low = max(2, keep // 4)
        chosen = np.r_[0:low, len(values) - (keep - low) : len(values)]
        self.basis.rotate(torch.from_numpy(vectors[:, chosen].copy()))
        self.projected = np.diag(values[chosen])
        self.restarted += 1

    def settled(self, k: int, again: bool) -> bool:
        """At the end of a space: whether all is found. If not, the next step begins a further one.

        A first space that ended without a breakdown and shows no value twice is taken to be all; any other
        is followed by further ones until one brings nothing above the k-th value.
        """
        values, before = np.linalg.eigvalsh(self.projected)[::-1][:k], self.before
        near, far = max(1e-7, 300 * torch.finfo(self.basis.dtype).eps), 1e-7 * self.scale
        double = bool(np.isclose(values[1:], values[:-1], rtol=near, atol=far).any())
        if before is None and not (self.broken or again or double):
            return True
        same = (
            before is not None and len(values) == len(before) == k and np.allclose(values, before, rtol=near, atol=far)
        )
        self.before, self.residual = values, None
        return bool(same)

    def within(self, k: int, tolerance: float) -> bool:
        if self.basis.rows < k:
            return False
        values, bounds = self._pairs()[::2]
        wanted = np.unique(np.r_[0, len(values) - k : len(values)])
        allowed = tolerance * np.maximum(np.abs(values[wanted]), 1e-3 * np.abs(values).max())
        return bool((bounds[wanted] <= allowed).all())

    def result(self, note: str) -> Ritz:
        values, vectors, bounds = self._pairs()
        notes = [note] if note else []
        if self.restarted:
            notes.append(f"Restarted {self.restarted} times with {self.rows} vectors.")
        if self.opened > 1:
            notes.append(f"{self.opened} Krylov spaces: repeated eigenvalues, or a matrix of low rank.")
        return Ritz(
            self.basis, values, vectors, bounds, self.coupling, self.steps, self.converged, self.rows, " ".join(notes)
        )

    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.projected)
        return values, vectors, self.coupling * np.abs(vectors[-1])
