"""Families stay apart for every eye: the smallest colour difference under simulated colour blindness."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fdlab.report.style import DARK, FAMILIES, OTHER, looks

# Machado, Oliveira, Fernandes 2009, table 1, severity 1; they act on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]])


def lab(color: str, sight: str) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of a colour as seen."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(SIGHT[sight]) @ linear, 0, 1)
    ratio = XYZ @ seen / XYZ.sum(1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_lab_of_known_colours() -> None:
    np.testing.assert_allclose(lab("#ffffff", "normal"), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab("#ff0000", "normal"), [53.24, 80.09, 67.20], atol=0.05)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("page", ["light", "dark"])
def test_any_two_families_are_15_apart(sight: str, page: str) -> None:
    colors = {name: look.color for name, look in {**FAMILIES, "other": OTHER}.items()}
    if page == "dark":
        colors = {name: DARK[color] for name, color in colors.items()}
    apart = {
        pair: float(np.linalg.norm(lab(colors[pair[0]], sight) - lab(colors[pair[1]], sight)))
        for pair in combinations(colors, 2)
    }
    worst = min(apart, key=lambda pair: apart[pair])
    assert apart[worst] >= 15, (worst, apart[worst])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "random"])
def test_ten_models_of_one_family_are_told_apart_without_colour(family: str) -> None:
    names = [str(number) for number in range(10)]
    found = looks(names, dict.fromkeys(names, family))
    assert len({(look.marker, look.fill) for look in found.values()}) == 10
