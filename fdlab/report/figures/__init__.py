"""Figures: one subject a file, each a ``Figure`` (figure.py) that reads a report and nothing else.

``draw_figure(id, report)`` draws any of them; read ``attention_distance.py`` first, the paper's own.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fdlab.errors import USAGE, FdlabError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from fdlab.report.figures.figure import Figure
    from fdlab.report.report import Report

# In the order of a page. A figure's file is named by its id, its class too (TwoWay for two_way); matplotlib is imported
# with the first file.
FIGURES = (
    *("ruler", "attention_distance", "head_similarity", "position", "averaged_maps", "bias_maps"),
    *("attribution_curves", "head_effects"),
    *("features", "cka", "feature_spectrum"),
    *("eigenvalues", "hessian_spectrum", "hessian_blocks", "max_eigenvalues"),
    *("landscape_line", "landscape_plane", "interpolation", "sharpness", "noise", "reparametrisation"),
    *("two_way", "trainability", "ranking", "finetune", "teacher", "teacher_blocks"),
    *("over_steps", "curves"),
)


def figure_of(figure: str, report: Report) -> Figure:
    """A figure of a report by its id, whether or not the report has rows for it (``Figure.present``).

    Raises:
        FdlabError: code 2, no such figure.
    """
    if figure not in FIGURES:
        what = f"There is no figure {figure!r}.{nearest(figure, FIGURES)}"
        raise FdlabError(what, f"There are: {', '.join(FIGURES)}.", code=USAGE)
    module = importlib.import_module(f"fdlab.report.figures.{figure}")
    subject: Figure = getattr(module, figure.title().replace("_", ""))(report)
    return subject


def available(report: Report) -> list[str]:
    """The figures whose rows the report has, in the order of a page."""
    return [figure for figure in FIGURES if figure_of(figure, report).present]


def draw_figure(figure: str, report: Report) -> Drawing:
    """Draws a figure under the house's settings.

    Raises:
        FdlabError: code 2, no such figure, or the table lacks its rows.
    """
    from fdlab.report.style import name_panels, settings

    subject = figure_of(figure, report)
    if not subject.present:
        raise FdlabError(
            f"The figure {figure!r} cannot be drawn.",
            "The table has no rows for it.",
            f"It can show: {', '.join(available(report)) or 'nothing'}.",
            code=USAGE,
        )
    with settings():
        drawn = subject.draw()
    name_panels(drawn, list(subject.looks))
    return drawn


def write_figures(
    folder: Path | str,
    report: Report,
    figures: Sequence[str] | None = None,
    *,
    venue: str = "page",
    kinds: Sequence[str] = ("pdf", "svg", "png"),
) -> dict[str, list[Path]]:
    """Writes the figures (default: all that the report has) and their captions (.txt).

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
    for figure in available(report) if figures is None else figures:
        caption = " ".join(figure_of(figure, report).caption())
        with at_venue(venue):
            drawn = enlarge(draw_figure(figure, report))
        paths = save_figure(drawn, folder, figure, kinds, note(figure, report, caption))
        text = Path(folder) / f"{figure}.txt"
        write_text(text, caption + "\n")
        written[figure] = [*paths, text]
    return written
