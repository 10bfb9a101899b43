"""The locality dial: its rule, its independence of batching, and that its labels do not leak."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fdlab.data.locality import CELL, CELLS, STRIPES, draw_cells, ideal_distance, render, twins
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError


def responses(images: torch.Tensor) -> np.ndarray:
    """(B, 64) how much more a cell looks like / than like the other stripes, measured from the pixels."""
    x = (images[:, 0].numpy() - 0.5) * 6
    cells = x.reshape(-1, CELLS, CELL, CELLS, CELL).transpose(0, 1, 3, 2, 4).reshape(-1, CELLS * CELLS, CELL, CELL)
    return np.einsum("bcij,ij->bc", cells, STRIPES[1] - STRIPES[0]) / 8


def agreement(r: np.ndarray, far: int) -> np.ndarray:
    """Guess the label: which twins agree more, those of y = 1 or those of y = 0."""
    score = [(r * r[:, twins(y, far)]).sum(1) for y in (0, 1)]
    return (score[1] > score[0]).astype(int)


def test_twins_are_mutual_and_as_far_as_said():
    rows, columns = np.divmod(np.arange(64), CELLS)
    lengths = {}
    for y in (0, 1):
        for far in (0, 1):
            twin = twins(y, far)
            assert (twin[twin] == np.arange(64)).all()
            assert (twin != np.arange(64)).all()
            lengths[y, far] = CELL * np.hypot(rows - rows[twin], columns - columns[twin])
    assert set(lengths[0, 0]) == set(lengths[1, 0]) == {4.0}
    assert ideal_distance(0) == 4.0
    assert ideal_distance(1) == pytest.approx(np.mean([lengths[0, 1], lengths[1, 1]]), abs=1e-12)
    assert ideal_distance(1) == pytest.approx(4 * (5 + math.sqrt(41)) / 2)
    assert ideal_distance(0.5) == pytest.approx(13.4, abs=0.01)
    assert twins(1, 0)[0] == 1
    assert twins(0, 0)[0] == 8
    assert twins(1, 1)[0] == 4 * 8 + 5
    assert twins(0, 1)[0] == 5 * 8 + 4


def test_cells_are_drawn_by_the_rule():
    cells = draw_cells(3, range(400), 0.5)
    for y, far, symbols in zip(cells.y, cells.far, cells.symbols, strict=True):
        assert (symbols == symbols[twins(y, far)]).all()
    assert cells.contrast.min() >= 0.6
    assert cells.contrast.max() <= 1.4
    assert abs(cells.contrast.mean() - 1) < 0.01
    assert cells.noise.std() == pytest.approx(1, abs=0.01)
    assert STRIPES[1][0, 1] == pytest.approx(0, abs=1e-12)
    assert STRIPES[1][1, 1] == pytest.approx(-1)
    quiet = type(cells)(cells.y, cells.far, cells.symbols, cells.contrast, 0 * cells.noise)
    x = (render(quiet)[5, 0].numpy() - 0.5) * 6
    for r, c in [(0, 0), (3, 6), (7, 7)]:
        sign = 1 if cells.symbols[5, r * 8 + c] else -1
        i, j = np.mgrid[0:4, 0:4]
        wanted = cells.contrast[5, r * 8 + c] * np.cos(2 * np.pi * (i + sign * j) / 4)
        assert np.allclose(x[r * 4 : r * 4 + 4, c * 4 : c * 4 + 4], wanted, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_far_and_labels_have_their_probabilities(alpha):
    cells = draw_cells(0, range(1000), alpha)
    assert abs(cells.far.mean() - alpha) <= 3 * math.sqrt(alpha * (1 - alpha) / 1000)
    assert abs(cells.y.mean() - 0.5) <= 3 * 0.5 / math.sqrt(1000)


def test_the_dial_moves_only_the_threshold():
    near, far = draw_cells(0, range(50), 0.0), draw_cells(0, range(50), 1.0)
    assert (near.y == far.y).all()
    assert (near.noise == far.noise).all()
    assert (near.contrast == far.contrast).all()


def test_a_sample_depends_on_seed_and_index_alone():
    source = open_data("locality:0.5", seed=1)
    assert source.endless
    assert source.mean == (0.5, 0.5, 0.5)
    assert source.std[0] == pytest.approx(1 / 6)
    together, labels = source.stack([5, 900_000, 17], 32)
    assert torch.equal(together[2], source.image(17))
    assert labels[2] == source.label(17)
    assert torch.equal(together[1], open_data("locality:0.5", seed=1).image(900_000))
    assert not torch.equal(together[0], open_data("locality:0.5", seed=2).image(5))
    assert together.min() >= 0
    assert together.max() <= 1
    assert together.shape == (3, 3, 32, 32)
    assert source.digest != open_data("locality:0.5", seed=2).digest != open_data("locality:0.25", seed=2).digest


def test_test_samples_are_numbered_from_two_to_the_31():
    test = open_data("locality:0#test")
    wanted = render(draw_cells(0, [2**31 + 3], 0.0))[0]
    assert torch.equal(test.image(3), wanted)
    assert test.endless
    assert not torch.equal(test.image(3), open_data("locality:0").image(3))
    part = open_data("locality:0#test[:64]")
    assert not part.endless
    assert len(part) == 64
    assert torch.equal(part.image(3), wanted)
    assert part.digest == test.sample(64).digest
    assert part.labels().tolist() == part.stack(range(64), 32)[1].tolist()
    with pytest.raises(FdlabError) as caught:
        test.labels()
    assert caught.value.code == 2


@pytest.mark.parametrize("alpha", [0, 1])
def test_labels_do_not_leak_without_comparing_positions(alpha):
    train, y_train = open_data(f"locality:{alpha}[:3000]").stack(range(3000), 32)
    test, y_test = open_data(f"locality:{alpha}#test[:1500]").stack(range(1500), 32)
    error = 3 * 0.5 / math.sqrt(len(test))
    bags = [np.sort(responses(x), axis=1) for x in (train, test)]
    reader = LogisticRegression(max_iter=500).fit(bags[0], y_train.numpy())
    assert abs(reader.score(bags[1], y_test.numpy()) - 0.5) < error
    compared = responses(test)
    assert (agreement(compared, alpha) == y_test.numpy()).mean() > 0.99
    assert abs((agreement(compared, 1 - alpha) == y_test.numpy()).mean() - 0.5) < error


def test_a_batch_costs_milliseconds():
    source = open_data("locality:0.5")
    source.gather(np.arange(64))
    start = time.process_time()
    for step in range(5):
        source.gather(np.arange(64) + 64 * step)
    assert (time.process_time() - start) / 5 < 0.05  # 4 ms here; the bound only catches a change of kind
