"""The mark of a model beside its name: its shape in figures, as a small SVG whose colour is a CSS variable."""

from __future__ import annotations

import math

from markupsafe import Markup

from fdlab.report.style import Look

# matplotlib's markers as polygons around (6, 6); round ones are circles.
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "s": [(1.5, 1.5), (10.5, 1.5), (10.5, 10.5), (1.5, 10.5)],
    "^": [(6, 1), (11, 10.5), (1, 10.5)],
    "v": [(6, 11), (11, 1.5), (1, 1.5)],
    "<": [(1, 6), (10.5, 1), (10.5, 11)],
    ">": [(11, 6), (1.5, 1), (1.5, 11)],
    "D": [(6, 0.5), (11.5, 6), (6, 11.5), (0.5, 6)],
    "d": [(6, 0.5), (9.5, 6), (6, 11.5), (2.5, 6)],
    "P": [(4, 1), (8, 1), (8, 4), (11, 4), (11, 8), (8, 8), (8, 11), (4, 11), (4, 8), (1, 8), (1, 4), (4, 4)],
    "X": [(3, 1), (6, 4), (9, 1), (11, 3), (8, 6), (11, 9), (9, 11), (6, 8), (3, 11), (1, 9), (4, 6), (1, 3)],
}
_CORNERS = {"p": 5, "h": 6, "8": 8, "*": 10}


def mark(look: Look, place: int) -> Markup:
    """The mark of the model with colour variable ``--mPLACE``."""
    paint = f'fill="var(--d{place})"' if look.fill else f'fill="none" stroke="var(--d{place})" stroke-width="1.6"'
    points = _POLYGONS.get(look.marker) or _star(look.marker)
    shape = f'<circle cx="6" cy="6" r="4.8" {paint}/>'
    if points:
        inside = points if look.fill else [(6 + 0.85 * (x - 6), 6 + 0.85 * (y - 6)) for x, y in points]
        shape = f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in inside)}" {paint}/>'
    return Markup(f'<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">{shape}</svg>')


def _star(marker: str) -> list[tuple[float, float]]:
    """A regular polygon, or a star whose inner corners lie at half the radius."""
    corners = _CORNERS.get(marker, 0)
    radii = [5.5, 2.5] if marker == "*" else [5.5]
    return [
        (6 + radii[n % len(radii)] * math.sin(2 * math.pi * n / corners),
         6 - radii[n % len(radii)] * math.cos(2 * math.pi * n / corners))
        for n in range(corners)
    ]  # fmt: skip
