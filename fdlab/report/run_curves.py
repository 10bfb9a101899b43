"""The log of one run as a picture: a panel a number, over steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdlab.errors import USAGE, FdlabError
from fdlab.report.figures.layout import filled, label_outer
from fdlab.report.style import INK, KINDS, WIDE, new_figure, save_figure, settings

ACROSS = 3


def save_curves(path: Path | str, run: Mapping[str, Any]) -> Path:
    """Draws ``read_run``'s series into one file.

    Raises:
        FdlabError: code 2, an ending that is no format of figures.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in KINDS:
        fix = f"End its name with .{', .'.join(KINDS)}."
        raise FdlabError(f"{path} has no format of figures.", fix=fix, code=USAGE)
    series = run["series"]
    down = math.ceil(len(series) / ACROSS)
    with settings():
        figure = new_figure(WIDE, 0.25 + 1.15 * down)
        grid = figure.subplots(down, ACROSS, squeeze=False, sharex=True)
        for number, axes, (name, (steps, values)) in filled(grid, list(series.items())):
            axes.plot(steps, values, color=INK, lw=0.9, marker="." if len(values) == 1 else "")
            axes.set_title(name, loc="left")
            axes.locator_params(nbins=4)
            label_outer(axes, number, grid, len(series), "step")
    return save_figure(figure, path.parent, path.stem, [kind])[0]
