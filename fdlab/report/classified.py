"""Two pictures of a classifier's answers: its confusions, and the mistakes that it is surest of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from fdlab.report.style import PAPER, SHADES_OF_BLUE, WIDE, new_figure, settings, wrap

MOST = 30  # classes of a confusion matrix that can be read
COLUMNS = 5  # pictures in a row of the sheet


def confusion_figure(counts: pd.DataFrame) -> Figure:
    """The confusion matrix: rows are the images' classes, shaded by the part of the class; the cells hold counts.

    Of more than ``MOST`` classes those with the most mistakes are drawn; the table has them all.

    Args:
        counts: as ``Answers.confusion``.
    """
    wrong = counts.to_numpy().copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")
    kept = np.sort(order[:MOST])
    shown = counts.iloc[kept, kept]
    parts = shown.to_numpy() / np.maximum(counts.to_numpy().sum(1)[kept], 1)[:, None]
    with settings():
        side = min(WIDE, 1.6 + 0.34 * len(kept))
        figure = new_figure(side, side)
        axes = figure.subplots()
        shades = ListedColormap([PAPER, *reversed(SHADES_OF_BLUE)])
        axes.imshow(parts, cmap=shades, vmin=0, vmax=1)
        size = 7 if len(kept) <= 15 else 5
        for row, column in np.argwhere(shown.to_numpy() > 0):
            ink = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, str(shown.iloc[row, column]), ha="center", va="center", color=ink, fontsize=size)
        names = [wrap(str(name), 16, 1) for name in shown.columns]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.set_xlabel("named by the classifier")
        axes.set_ylabel("class of the images")
        axes.grid(visible=False)
    return figure


def mistakes_figure(mistakes: pd.DataFrame, pictures: Sequence[np.ndarray]) -> Figure:
    """A sheet of the wrong answers with the largest shares, the surest first.

    Args:
        mistakes: as ``Answers.mistakes``. pictures: (h, w, 3) of each, in the same order.
    """
    rows = max(1, math.ceil(len(pictures) / COLUMNS))
    with settings():
        figure = new_figure(WIDE, 1.35 * rows)
        grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, picture, (_, mistake) in zip(grid, pictures, mistakes.iterrows(), strict=False):
            axes.imshow(picture)
            label, named = (wrap(str(mistake[key]), 18, 1) for key in ("label", "named"))
            axes.set_title(f"{label}\nnamed {named} {100 * mistake['share']:.0f} %", fontsize=6)
    return figure
