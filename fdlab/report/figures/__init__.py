"""Figures: one subject a file, each with ``TITLE``, ``METRICS``, ``present``, ``draw``, ``caption`` and ``numbers``.

``draw_figure(id, table, facts)`` draws any of them; read ``attention_distance.py`` first, the paper's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from fdlab.errors import USAGE, FdlabError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fdlab.report.captions import Caption
    from fdlab.report.summary import Facts

# In the order in which a page shows them.
FIGURES = {
    "ruler": "fdlab.report.figures.ruler",
    "attention_distance": "fdlab.report.figures.attention_distance",
    "head_similarity": "fdlab.report.figures.head_similarity",
    "position": "fdlab.report.figures.position",
    "averaged_maps": "fdlab.report.figures.averaged_maps",
    "bias_maps": "fdlab.report.figures.bias_maps",
    "attribution_curves": "fdlab.report.figures.attribution_curves",
    "head_effects": "fdlab.report.figures.head_effects",
    "features": "fdlab.report.figures.features",
    "cka": "fdlab.report.figures.cka",
    "feature_spectrum": "fdlab.report.figures.feature_spectrum",
    "eigenvalues": "fdlab.report.figures.eigenvalues",
    "hessian_spectrum": "fdlab.report.figures.hessian_spectrum",
    "hessian_blocks": "fdlab.report.figures.hessian_blocks",
    "max_eigenvalues": "fdlab.report.figures.max_eigenvalues",
    "landscape_line": "fdlab.report.figures.landscape_line",
    "landscape_plane": "fdlab.report.figures.landscape_plane",
    "interpolation": "fdlab.report.figures.interpolation",
    "sharpness": "fdlab.report.figures.sharpness",
    "noise": "fdlab.report.figures.noise",
    "reparametrisation": "fdlab.report.figures.reparametrisation",
    "two_way": "fdlab.report.figures.two_way",
    "trainability": "fdlab.report.figures.trainability",
    "prediction": "fdlab.report.figures.prediction",
    "finetune": "fdlab.report.figures.finetune",
    "teacher": "fdlab.report.figures.teacher",
    "teacher_blocks": "fdlab.report.figures.teacher_blocks",
    "curves": "fdlab.report.figures.curves",
}


class FigureModule(Protocol):
    """What every figure file offers."""

    TITLE: str
    METRICS: tuple[str, ...]  # what a reader must know the formula of

    def present(self, table: pd.DataFrame) -> bool:
        """Whether the table has the rows of this figure."""

    def draw(self, table: pd.DataFrame, facts: Facts) -> Figure:
        """The figure, in its exact size."""

    def caption(self, table: pd.DataFrame, facts: Facts) -> Caption:
        """Exactly four sentences: what, how to read, what it shows here, what not to conclude."""

    def numbers(self, table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
        """The figure's numbers as a table of text, for those who do not see the picture."""


def figure_module(figure: str) -> FigureModule:
    """The file of a figure.

    Raises:
        FdlabError: code 2, no such figure.
    """
    if figure not in FIGURES:
        raise FdlabError(
            f"There is no figure {figure!r}.{nearest(figure, FIGURES)}",
            f"There are: {', '.join(FIGURES)}.",
            code=USAGE,
        )
    return cast(FigureModule, importlib.import_module(FIGURES[figure]))


def available(table: pd.DataFrame) -> list[str]:
    """The figures whose rows the table has, in the order of a page."""
    return [figure for figure in FIGURES if figure_module(figure).present(table)]


def draw_figure(figure: str, table: pd.DataFrame, facts: Facts) -> Figure:
    """Draws a figure under the house's settings.

    Raises:
        FdlabError: code 2, no such figure, or the table lacks its rows.
    """
    from fdlab.report.style import looks_of, name_panels, settings

    module = figure_module(figure)
    if not module.present(table):
        raise FdlabError(
            f"The figure {figure!r} cannot be drawn.",
            "The table has no rows for it.",
            f"It can show: {', '.join(available(table)) or 'nothing'}.",
            code=USAGE,
        )
    with settings():
        drawn = module.draw(table, facts)
    name_panels(drawn, list(looks_of(table, facts)))
    return drawn


def write_figures(
    folder: Path | str,
    table: pd.DataFrame,
    facts: Facts,
    figures: list[str] | None = None,
    *,
    venue: str = "page",
    kinds: Sequence[str] = ("pdf", "svg", "png"),
) -> dict[str, list[Path]]:
    """Writes the figures (default: all that the table has) and their captions (.txt).

    Args:
        venue: whose column widths (``fdlab.report.venues``).
        kinds: of pdf, svg, png.

    Raises:
        FdlabError: code 2, no such figure, venue or kind, or the table lacks the figure's rows.
    """
    from fdlab.records.atomic import write_text
    from fdlab.report.provenance import note
    from fdlab.report.style import KINDS, save_figure
    from fdlab.report.venues import at_venue, enlarge

    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise FdlabError(f"{unknown[0]!r} is no format of figures.", f"There are: {', '.join(KINDS)}.", code=USAGE)
    written = {}
    for figure in available(table) if figures is None else figures:
        caption = " ".join(figure_module(figure).caption(table, facts))
        with at_venue(venue):
            drawn = enlarge(draw_figure(figure, table, facts))
        paths = save_figure(drawn, folder, figure, kinds, note(figure, table, facts, caption))
        text = Path(folder) / f"{figure}.txt"
        write_text(text, caption + "\n")
        written[figure] = [*paths, text]
    return written
