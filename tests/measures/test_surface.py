"""Grids with a middle, contours from few points, the plane of a path."""

from __future__ import annotations

import numpy as np
import pytest

from fdlab.errors import FdlabError
from fdlab.measures.surface import LEVELS, Cell, filled, odd_grid, quadtree, trajectory
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


def test_a_quadtree_gives_the_contours_from_a_fifth_of_the_points() -> None:
    points, grid = 41, odd_grid(1.0, 41)
    across, up = np.meshgrid(grid, grid)
    full = valley(across, up)
    asked: list[Cell] = []

    def loss(cell: Cell) -> float:
        asked.append(cell)
        return float(full[cell[1], cell[0]])

    known = quadtree(points, loss)
    assert len(asked) == len(set(asked)) == len(known)
    assert len(known) <= 0.20 * points**2
    surface = filled(known, points)
    for rise in LEVELS:
        off = np.abs(radii(surface, full[20, 20] + rise) - radii(full, full[20, 20] + rise))
        assert np.nanmax(off) <= 0.02, (rise, np.nanmax(off))
    for (column, row), value in known.items():
        assert surface[row, column] == value == full[row, column]


def test_a_quadtree_sees_losses_that_are_not_finite() -> None:
    def loss(cell: Cell) -> float:
        return float("nan") if cell[0] > 14 else 0.1 + 0.02 * (cell[0] - 8) ** 2 + 0.02 * (cell[1] - 8) ** 2

    known = quadtree(17, loss)
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
