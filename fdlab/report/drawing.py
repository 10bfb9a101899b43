"""``fdlab.figure``: one figure of a table, as an object of matplotlib, for a notebook or a script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.report.folder import read_report
from fdlab.report.report import Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing


def figure(figure: str, table: pd.DataFrame | Report | str | Path, facts: Mapping[str, Any] | None = None) -> Drawing:
    """Draws a figure of a report: ``fdlab.figure("over_steps", "runs/monitor").savefig("steps.pdf")``.

    Args:
        figure: an id: ``attention_distance``, ``over_steps``, ...
        table: the one table, a ``Report``, a report's folder, or a ``table.csv``.
        facts: what is known beside a table, as ``facts.json`` holds it.

    Returns:
        The ``matplotlib.figure.Figure``, in its exact size.

    Raises:
        FdlabError: code 2, no such figure, or the table has no rows for it; code 3, a table that cannot be read.
    """
    from fdlab.report.figures import draw_figure

    if isinstance(table, (str, Path)):
        table = read_report(table)
    report = table if isinstance(table, Report) else Report(table, facts)
    return draw_figure(figure, report)
