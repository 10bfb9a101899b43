"""Grids with a middle, contours from few points, the plane of a path."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.models.vision_transformer import VisionTransformer

from fdlab.errors import FdlabError
from fdlab.measures.directions import filter_direction, moving
from fdlab.measures.surface import LEVELS, Cell, filled, near_contours, odd_grid, trajectory
from fdlab.randomness import stream


def test_a_grid_has_an_exact_middle() -> None:
    for span, points in ((1.0, 3), (0.3, 21), (0.7, 41)):
        grid = odd_grid(span, points)
        assert grid[points // 2] == 0.0
        assert grid[0] == -grid[-1] == -span
        np.testing.assert_allclose(np.diff(grid), 2 * span / (points - 1))
    for span, points in ((1.0, 20), (1.0, 1), (0.0, 5), (-1.0, 5)):
        with pytest.raises(FdlabError, match="has no middle"):
            odd_grid(span, points)


def radii(surface: np.ndarray, level: float, rays: int = 90) -> np.ndarray:
    """How far from the middle each ray first meets the level, in half-widths; NaN where it does not."""
    from scipy.interpolate import RegularGridInterpolator

    places = np.linspace(-1, 1, len(surface))
    log = RegularGridInterpolator((places, places), np.log(surface), method="linear")
    reach = np.linspace(0, 1, 2001)
    found = []
    for angle in np.linspace(0, 2 * np.pi, rays, endpoint=False):
        line = log(np.stack([reach * np.sin(angle), reach * np.cos(angle)], 1))
        above = np.flatnonzero(line >= np.log(level))
        found.append(reach[above[0]] if len(above) else np.nan)
    return np.array(found)


def valley(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A bent, lopsided bowl such as those of small transformers: steep, then flattening."""
    u, v = x + 0.3 * y * y + 0.1 * y, y - 0.2 * x
    steep = 6 * u * u * (1 + 0.8 * np.tanh(2 * u)) + 2.5 * v * v
    return 0.14 + 12 * np.log1p(steep / 3) / (1 + 0.1 * np.sin(4 * x * y))


def test_a_search_gives_the_contours_from_a_fifth_of_the_points() -> None:
    points, grid = 41, odd_grid(1.0, 41)
    across, up = np.meshgrid(grid, grid)
    full = valley(across, up)
    asked: list[Cell] = []

    def loss(cell: Cell) -> float:
        asked.append(cell)
        return float(full[cell[1], cell[0]])

    known = near_contours(points, loss)
    assert len(asked) == len(set(asked)) == len(known)
    assert len(known) <= 0.15 * points**2
    surface = filled(known, points)
    for rise in LEVELS:
        off = np.abs(radii(surface, full[20, 20] + rise) - radii(full, full[20, 20] + rise))
        assert np.nanmax(off) <= 0.02, (rise, np.nanmax(off))
    for (column, row), value in known.items():
        assert surface[row, column] == value == full[row, column]


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A narrow trough along the diagonal between flat shoulders that wave."""
    u, v = (x + y) / 2**0.5, (x - y) / 2**0.5
    return 0.05 + 8 * (1 - np.exp(-6 * u * u)) * (1 + 0.3 * np.sin(3 * v)) + 1.2 * v * v


def lakes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A bowl that ends in a plateau with hollows beside it."""
    r = np.hypot(x, 1.3 * y + 0.3 * x * x)
    hollows = np.maximum(0, np.sin(4 * np.arctan2(y, x))) * np.exp(-(((r - 1.4) / 0.3) ** 2))
    return 0.02 + 6 * r**2 / (r**2 + 0.15) - 3.75 * hollows


@pytest.mark.parametrize("surface", [ridge, lakes])
def test_a_wide_rough_plane_is_searched_until_its_contours_are_foretold(surface: Callable[..., np.ndarray]) -> None:
    """At span 2 a seventh of the points leaves contours more than a cell off: the whole grid tells."""
    points, grid = 25, odd_grid(2.0, 25)
    full = surface(*np.meshgrid(grid, grid))
    known = near_contours(points, lambda cell: float(full[cell[1], cell[0]]))
    found = filled(known, points)
    for rise in LEVELS:
        off = np.abs(radii(found, full[12, 12] + rise) - radii(full, full[12, 12] + rise))
        assert np.nanmax(off) <= 0.5 * 2 / (points - 1), (rise, np.nanmax(off))
    assert 0.15 * points**2 < len(known) < 0.7 * points**2


def test_a_real_models_contours_are_within_two_percent() -> None:
    """A trained transformer on digits, 41 x 41 points: the whole grid against the search."""
    data = load_digits()
    images = torch.tensor(data.images / 4.0 - 2.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=8, patch_size=4, in_chans=1, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, num_classes=10
        )
        optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for step in range(300):
            part = torch.arange(64 * step, 64 * step + 64) % len(images)
            optimiser.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    points, grid, full = 41, odd_grid(1.0, 41), np.empty((41, 41))
    weights = dict(model.eval().named_parameters())
    first, second = (filter_direction(weights, 0, number) for number in (0, 1))
    with torch.no_grad(), moving(weights) as place:
        for row, column in np.ndindex(full.shape):
            place.go((float(grid[column]), first), (float(grid[row]), second))
            full[row, column] = float(F.cross_entropy(model(images[:64]), labels[:64]))
    known = near_contours(points, lambda cell: float(full[cell[1], cell[0]]))
    assert len(known) <= 0.20 * points**2
    surface, met = filled(known, points), 0
    for rise in LEVELS:
        truth = radii(full, full[20, 20] + rise)
        off = np.abs(radii(surface, full[20, 20] + rise) - truth)
        met += int(np.isfinite(truth).sum())
        assert not np.isfinite(truth).any() or np.nanmax(off) <= 0.02, (rise, np.nanmax(off))
    assert met > 200  # of 450 rays and levels


def test_too_few_finite_losses_are_not_interpolated() -> None:
    known = near_contours(17, lambda cell: 1.0 if cell == (8, 8) else float("nan"))
    surface = filled(known, 17)
    assert surface[8, 8] == 1.0
    assert np.isnan(surface).sum() == 17 * 17 - 1


def test_a_search_sees_losses_that_are_not_finite() -> None:
    def loss(cell: Cell) -> float:
        return float("nan") if cell[0] > 14 else 0.1 + 0.02 * (cell[0] - 8) ** 2 + 0.02 * (cell[1] - 8) ** 2

    known = near_contours(17, loss)
    assert any(np.isnan(value) for value in known.values())
    surface = filled(known, 17)
    assert surface[8, 8] == pytest.approx(0.1)
    assert np.isnan(surface[0, 16])


def test_a_path_in_a_plane_is_explained_wholly() -> None:
    draw = stream(0, "path")
    axes = np.linalg.qr(draw.normal(size=(500, 2)))[0]
    places = np.array([[3.0, 0.0], [2.0, 0.5], [1.0, -0.2], [0.0, 0.0]])
    steps = places @ axes.T
    found = trajectory(steps @ steps.T)
    assert found.explained.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.norm(found.places, axis=1), np.linalg.norm(places, axis=1), atol=1e-9)
    np.testing.assert_allclose(found.places[-1], 0, atol=1e-12)
    basis = found.axes @ steps
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-9)


def test_a_random_walk_is_explained_as_foretold() -> None:
    """Two axes hold about three quarters of a long random walk: the warning's number."""
    draw = stream(0, "walk")
    walk = np.cumsum(draw.normal(size=(60, 4000)), axis=0)
    away = walk - walk[-1]
    found = trajectory(away @ away.T)
    np.testing.assert_allclose(found.explained, found.random_walk, atol=0.03)
    assert found.random_walk.sum() > 0.7


def test_a_model_that_never_moved_has_no_axes() -> None:
    found = trajectory(np.zeros((4, 4)))
    assert not found.places.any()
    assert not found.explained.any()
