"""Models stay apart for every eye: the smallest colour difference under simulated colour blindness."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fdlab.report.style import COLORS, DARK, LINEAGES, looks

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
def test_any_two_models_are_20_apart(sight: str, page: str) -> None:
    colors = {name: DARK[name] if page == "dark" else name for name in COLORS}
    apart = {
        pair: float(np.linalg.norm(lab(colors[pair[0]], sight) - lab(colors[pair[1]], sight)))
        for pair in combinations(colors, 2)
    }
    worst = min(apart, key=lambda pair: apart[pair])
    assert apart[worst] >= 20, (worst, apart[worst])


def seen(names: list[str], **more: object) -> dict[str, tuple[str, str, bool]]:
    found = looks(names, {name: "random" for name in names if name.startswith("untrained")}, **more)  # type: ignore[arg-type]
    return {name: (look.base or look.color, look.marker, look.fill) for name, look in found.items()}


def test_six_models_have_six_colours_and_controls_are_grey() -> None:
    found = seen([*"abcdef", "untrained 1", "untrained 2"])
    assert len({found[name][0] for name in "abcdef"}) == 6
    assert {found[name][0] for name in ("untrained 1", "untrained 2")} == {COLORS[-1]}
    assert not found["untrained 1"][2] and found["untrained 1"] != found["untrained 2"]


def test_a_teacher_and_its_first_student_have_two_tones_of_one_hue() -> None:
    names = ["alone", "teacher", "student", "second student"]
    found = seen(names, teachers={"student": "teacher", "second student": "teacher"})
    pairs = [(pair[0].color, pair[1].color) for pair in LINEAGES]
    assert (found["teacher"][0], found["student"][0]) in pairs
    assert found["second student"][0] not in {color for pair in pairs for color in pair}
    assert len({one[0] for one in found.values()}) == 4


def test_the_first_models_of_a_report_keep_their_colours_when_one_joins() -> None:
    assert seen(["a", "b"])["a"] == seen(["a", "b", "c"])["a"]


@pytest.mark.parametrize("count", [13, 30])
def test_many_models_take_one_hue_a_lineage_and_differ_without_colour(count: int) -> None:
    names = [f"m{number}" for number in range(count)]
    kin = {name: f"kind {number % 3}" for number, name in enumerate(names)}
    found = looks(names, {}, kin=kin)
    assert len({look.color for look in found.values()}) == count  # a page can tell whose line is whose
    for kind in set(kin.values()):
        own = [found[name] for name in names if kin[name] == kind]
        assert len({(look.marker, look.fill) for look in own[:9]}) == min(len(own), 9)
        tones = [np.array([int(look.color[i : i + 2], 16) for i in (1, 3, 5)]) for look in own]
        assert max(abs(tone - tones[0]).max() for tone in tones) <= 2 * len(own)
