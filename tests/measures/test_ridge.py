"""The cross-validated ridge: what is linear is found whole, what is noise is worth nothing however few the images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fdlab.measures.ridge import STRENGTHS, FoldedRidge, explained

FOLDS = 4


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def explained_share(source: Tensor, target: Tensor, batch: int = 7) -> float:
    folds = np.random.default_rng(0).permutation(len(source)) % FOLDS
    ridge = FoldedRidge(FOLDS)
    for start in range(0, len(source), batch):
        part = slice(start, start + batch)
        ridge.add(source[part], target[part], folds[part])
    error, base = 0.0, 0.0
    for fold, model in enumerate(ridge.fit()):
        out = folds == fold
        pair = explained(model, source[out], target[out])
        error, base = error + float(pair[0].sum()), base + float(pair[1].sum())
    return 1 - error / base


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_linear_map_with_an_offset_at_each_position_is_explained_whole(scale: float) -> None:
    source = normal(0, 40, 9, 16)
    target = source @ normal(1, 16, 5) + 3 * normal(2, 9, 5)
    uneven = scale * source * torch.logspace(-2, 2, 16) + 100 * scale * normal(3, 9, 16)
    assert explained_share(uneven, target) > 0.9999


@pytest.mark.parametrize(("images", "width"), [(16, 64), (16, 8), (200, 8), (24, 300)])
def test_noise_explains_nothing_even_with_more_channels_than_tokens(images: int, width: int) -> None:
    share = explained_share(normal(0, images, 9, width), normal(1, images, 9, 5))
    assert -0.06 < share < 0.03


def test_half_of_the_variance_is_half() -> None:
    source = normal(0, 300, 9, 4)
    signal = source @ torch.linalg.qr(normal(1, 4, 4))[0]
    assert explained_share(source, signal + normal(2, 300, 9, 4)) == pytest.approx(0.5, abs=0.03)


def test_position_alone_is_no_explanation() -> None:
    fixed = normal(0, 1, 9, 6).expand(32, 9, 6)
    assert abs(explained_share(fixed + 1e-9, fixed + normal(1, 32, 9, 6))) < 0.05


def test_sums_equal_a_search_over_the_tokens_themselves() -> None:
    source, folds = normal(0, 24, 5, 7), np.arange(24) % FOLDS
    target = source @ normal(1, 7, 3) + 2 * normal(2, 24, 5, 3)
    ridge = FoldedRidge(FOLDS)
    ridge.add(source, target, folds)
    found = ridge.fit()[1].weight.numpy()

    def fitted(chosen: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y = (t[chosen].double().numpy() for t in (source, target))
        mx, my = x.mean(0), y.mean(0)
        x, y = (x - mx).reshape(-1, 7), (y - my).reshape(-1, 3)
        length = np.linalg.norm(x, axis=0)
        x = x / length
        return np.linalg.solve(x.T @ x + strength * np.eye(7), x.T @ y) / length[:, None], mx, my

    def error(strength: float) -> float:
        weight, mx, my = fitted((folds != 1) & (folds != 2), strength)
        x, y = (t[folds == 2].double().numpy() for t in (source, target))
        return float(((y - my - (x - mx) @ weight) ** 2).sum())

    best = min(STRENGTHS, key=error)
    np.testing.assert_allclose(found, fitted(folds != 1, best)[0], rtol=1e-8, atol=1e-10)
