"""Known answers for attribution, each in closed form, for tests and the doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fdlab.known_answers.check import Check
from fdlab.measures import attribution as form
from fdlab.measures import attribution_rows as of_curves

# captum weighs its steps in float32 whatever the images are, so its integrals are no better than that
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
GRID = (2, 4)
Answers = Iterator[tuple[str, float | Tensor, float]]


def run_case(name: str, dtype: torch.dtype = torch.float64) -> list[Check]:
    """All checks of one case, with inputs in ``dtype``."""
    answers = CASES[name](dtype)
    return [Check(what, float(got), want, TOLERANCE[dtype] * max(1.0, abs(want))) for what, got, want in answers]


def picture(dtype: torch.dtype) -> Tensor:
    """(1, 3, 4, 8): small whole numbers, every cell of ``GRID`` with another sum."""
    values = torch.arange(96).reshape(1, 3, 4, 8)
    return ((5 * values + values // 7) % 11 - 4).to(dtype)


def _linear(dtype: torch.dtype) -> Answers:
    """s = sum w x: attributions w x, whatever the steps."""
    x, w = picture(dtype), picture(dtype).flip(3) / 4
    attributions, gap = form.integrated_gradients(
        lambda images, _: (images * w).sum((1, 2, 3)), x, torch.zeros(1), steps=2
    )
    yield "attribution of a pixel", attributions[0, 1, 2, 3], float(x[0, 1, 2, 3] * w[0, 1, 2, 3])
    yield "sum", attributions.sum(), float((x * w).sum())
    yield "completeness", gap[0], 0.0
    cell = form.cell_sums(attributions, GRID)[0, 5]
    yield "cell of row 1, column 1", cell, float((x * w)[0, :, 2:4, 2:4].sum())


def _square(dtype: torch.dtype) -> Answers:
    """s = sum x^2 from b: attributions x^2 - b^2."""
    x, baseline = picture(dtype), 0.5
    square: form.Score = lambda images, _: (images**2).sum((1, 2, 3))  # noqa: E731
    attributions, gap = form.integrated_gradients(square, x, torch.zeros(1), baseline, steps=3)
    yield "attribution of a pixel", attributions[0, 2, 1, 6], float(x[0, 2, 1, 6]) ** 2 - baseline**2
    yield "completeness", gap[0] / square(x, x)[0], 0.0


def _rollout(dtype: torch.dtype) -> Answers:
    tokens, blocks = 5, 3
    for name, maps in (("uniform", torch.full((tokens, tokens), 1 / tokens)), ("identity", torch.eye(tokens))):
        rollout = form.Rollout()
        for _ in range(blocks):
            rollout.add(maps.to(dtype).expand(1, 2, -1, -1))
        off = (1 - 2.0**-blocks) / tokens if name == "uniform" else 0.0
        diagonal = off + 2.0**-blocks if name == "uniform" else 1.0
        yield f"{name}, class row to a patch", rollout.patches(1, 0)[0, 2], off
        yield (
            f"{name}, patch rows to a patch",
            rollout.patches(1, None)[0, 2],
            (diagonal + (tokens - 2) * off) / (tokens - 1),
        )


def _one_cell(dtype: torch.dtype) -> Answers:
    """One of N cells has the whole score; changed as number r it gives areas (r + 1/2) / N and 1 - that."""
    x, cell, count = torch.ones(1, 3, 4, 8, dtype=dtype), 6, GRID[0] * GRID[1]
    shares = torch.arange(count + 1, dtype=dtype) / count
    for rank in (0, 4):
        others = [other for other in range(count) if other != cell]
        order = torch.tensor([[*others[:rank], cell, *others[rank:]]])
        removed, added = form.curves(
            lambda images, _: 3 + form.cell_sums(images, GRID)[:, cell],
            x,
            torch.zeros(1),
            order,
            GRID,
            range(count + 1),
        )
        yield f"deletion, rank {rank}", of_curves.area(of_curves.falling(removed), shares)[0], (rank + 0.5) / count
        yield f"insertion, rank {rank}", of_curves.area(of_curves.rising(added), shares)[0], 1 - (rank + 0.5) / count


def _equal_cells(dtype: torch.dtype) -> Answers:
    """Every cell has as much of the score: straight lines, areas 1/2 in any order."""
    x, count = torch.ones(2, 3, 4, 8, dtype=dtype), GRID[0] * GRID[1]
    order, counts = form.random_order(0, range(2), count), form.counts_of(count, 4)
    removed, added = form.curves(lambda images, _: images.sum((1, 2, 3)), x, torch.zeros(2), order, GRID, counts)
    shares = torch.tensor(counts, dtype=dtype) / count
    yield "left after a quarter", of_curves.falling(removed)[1, 1], 0.75
    yield "area of deletion", of_curves.area(of_curves.falling(removed), shares)[0], 0.5
    yield "area of insertion", of_curves.area(of_curves.rising(added), shares)[1], 0.5


CASES: dict[str, Callable[[torch.dtype], Answers]] = {
    "linear score": _linear,
    "square score": _square,
    "rollout": _rollout,
    "one cell has the score": _one_cell,
    "every cell alike": _equal_cells,
}
