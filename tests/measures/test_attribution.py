"""Attribution arithmetic on functions whose answer is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fdlab.measures import attribution as form
from fdlab.measures import attribution_rows as shares_of

DOUBLE = torch.float64
GRID = (2, 4)


def pictures(n: int = 3, size: tuple[int, int] = (4, 8)) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def test_gradients_of_a_linear_score_are_exact() -> None:
    images, weights = pictures(), pictures(1)[0]
    found, gap = form.integrated_gradients(
        lambda x, aims: (x * weights).sum((1, 2, 3)) * aims + 7, images, torch.tensor([1.0, 2.0, -1.0]), steps=3
    )
    expected = images * weights * torch.tensor([1.0, 2.0, -1.0])[:, None, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)  # captum's weights are float32
    assert float(gap.abs().max()) < 1e-5


def test_gradients_of_a_square_and_their_baseline() -> None:
    """Of x^2 from b to x: (x - b) (x + b); the rule is exact for a gradient of degree one."""
    images = pictures()
    found, gap = form.integrated_gradients(
        lambda x, _: (x**2).sum((1, 2, 3)), images, torch.zeros(3), 0.5, steps=2, rows=1
    )
    torch.testing.assert_close(found, (images - 0.5) * (images + 0.5), rtol=1e-8, atol=1e-8)
    assert float(gap.abs().max()) < 1e-6


def test_too_few_steps_leave_a_gap() -> None:
    _, gap = form.integrated_gradients(
        lambda x, _: torch.sin(9 * x).sum((1, 2, 3)), pictures(), torch.zeros(3), steps=2
    )
    assert float(gap.abs().min()) > 0.1


@pytest.mark.parametrize("blocks", [1, 3])
def test_rollout_of_uniform_and_identity(blocks: int) -> None:
    tokens, uniform, identity = 5, form.Rollout(), form.Rollout()
    for _ in range(blocks):
        uniform.add(torch.full((2, 3, tokens, tokens), 1 / tokens, dtype=DOUBLE))
        identity.add(torch.eye(tokens, dtype=DOUBLE).expand(2, 3, -1, -1))
    off = (1 - 2.0**-blocks) / tokens
    assert uniform.product is not None and identity.product is not None
    torch.testing.assert_close(uniform.product[0], off + 2.0**-blocks * torch.eye(tokens, dtype=DOUBLE))
    torch.testing.assert_close(uniform.patches(1, 0), torch.full((2, 4), off, dtype=DOUBLE))
    torch.testing.assert_close(uniform.patches(1, None), torch.full((2, 4), off + 2.0**-blocks / 4, dtype=DOUBLE))
    torch.testing.assert_close(identity.product[1], torch.eye(tokens, dtype=DOUBLE))


def test_rollout_multiplies_the_later_block_from_the_left() -> None:
    first, second = (torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(s)).softmax(-1) for s in (1, 2))
    rollout = form.Rollout()
    rollout.add(first)
    rollout.add(second)
    eye = torch.eye(4)
    expected = (0.5 * second[0].mean(0) + 0.5 * eye) @ (0.5 * first[0].mean(0) + 0.5 * eye)
    torch.testing.assert_close(rollout.product[0], expected)  # type: ignore[index]
    with pytest.raises(ValueError, match="no block"):
        form.Rollout().patches(0, None)


def test_cells_are_summed_row_major_on_rectangles() -> None:
    images = torch.zeros(1, 3, 4, 8)
    images[0, 1, 2, 5] = 2.0  # row 1, column 2 of cells of 2 x 2
    images[0, 2, 3, 4] = -0.5
    assert form.cell_sums(images, GRID)[0].tolist() == [0, 0, 0, 0, 0, 0, 1.5, 0]
    mask = form.pixels(torch.arange(8)[None] == 6, GRID, images)
    assert mask.shape == (1, 1, 4, 8)
    assert mask[0, 0].nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_one_cell_that_carries_the_score(rank: int) -> None:
    """Removed as number ``rank``, the area is (rank + 1/2) / N: a step, by trapezoids."""
    images, cell = torch.ones(1, 3, 4, 8, dtype=DOUBLE), 5
    order = torch.tensor([[c for c in range(8) if c != cell]])
    order = torch.cat([order[:, :rank], torch.tensor([[cell]]), order[:, rank:]], 1)

    def score(x: Tensor, _aims: Tensor) -> Tensor:
        return 4 + form.cell_sums(x, GRID)[:, cell]

    removed, added = form.curves(score, images, torch.zeros(1), order, GRID, range(9))
    shares = np.arange(9) / 8
    assert float(shares_of.area(shares_of.falling(removed.numpy()), shares)[0]) == pytest.approx((rank + 0.5) / 8)
    assert float(shares_of.area(shares_of.rising(added.numpy()), shares)[0]) == pytest.approx(1 - (rank + 0.5) / 8)


def test_curves_of_a_sum_are_the_sums_of_its_cells() -> None:
    images = pictures()
    cells = form.cell_sums(images, GRID)
    order, counts = form.descending(cells), [0, 3, 5, 8]

    def score(x: Tensor, _aims: Tensor) -> Tensor:
        return x.sum((1, 2, 3))

    removed, added = form.curves(score, images, torch.zeros(3), order, GRID, counts)
    ranked = cells.sort(1, descending=True).values
    for place, count in enumerate(counts):
        torch.testing.assert_close(added[:, place], ranked[:, :count].sum(1))
        torch.testing.assert_close(removed[:, place], ranked[:, count:].sum(1))
    passes: list[int] = []
    ends = score(images, order), torch.zeros(3, dtype=DOUBLE)
    form.curves(score, images, order, order, GRID, counts, ends=ends, done=lambda: passes.append(1))
    assert len(passes) == 4


def test_a_random_order_belongs_to_its_image() -> None:
    whole, part = form.random_order(3, range(6), 20), form.random_order(3, range(4, 6), 20)
    assert torch.equal(whole[4:], part)
    assert torch.equal(whole.sort(1).values, torch.arange(20).expand(6, -1))
    assert len({tuple(row) for row in whole.tolist()}) == 6
    assert not torch.equal(form.random_order(4, range(6), 20), whole)


@given(st.integers(1, 400), st.integers(1, 60))
def test_counts_rise_from_none_to_all(cells: int, steps: int) -> None:
    counts = form.counts_of(cells, steps)
    assert counts[0] == 0 and counts[-1] == cells
    assert counts == sorted(set(counts))
    assert len(counts) == min(cells, steps) + 1
