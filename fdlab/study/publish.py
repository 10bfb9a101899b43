"""A report's folder: table, facts, figures, LaTeX and page. The same call for every verb; nothing else is deleted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.records.atomic import writable_folder, write_json
from fdlab.records.definitions import write_definitions
from fdlab.records.table import write_table

if TYPE_CHECKING:
    import pandas as pd


def write_report(
    out: Path | str, table: pd.DataFrame, facts: Mapping[str, Any], *, teach: bool = False, again: bool = False
) -> Path:
    """Writes ``table.csv``, ``definitions.csv``, ``facts.json``, ``figures/``, ``latex/``, the page.

    Args:
        table: rows in the form of ``records.table``.
        facts: what is known beside the table (``fdlab.report.page``).
        teach: a question before each figure, a glossary, exercises.
        again: draw also what is there already with the same table and facts.

    Returns:
        The page's path.
    """
    folder = writable_folder(out)
    if not again and _written(folder, table, facts):
        return folder / "index.html"
    from fdlab.report.figures import write_figures
    from fdlab.report.latex import write_latex
    from fdlab.report.page import write_page

    write_table(folder / "table.csv", table)
    write_definitions(folder / "definitions.csv", table)
    write_json(folder / "facts.json", dict(facts))
    files = write_figures(folder / "figures", table, facts)
    write_latex(folder / "latex", table, facts)
    drawn = {figure: _svg_of(paths) for figure, paths in files.items()}
    return write_page(folder / "index.html", table, facts, teach=teach, drawn=drawn)


def _svg_of(paths: Sequence[Path]) -> str:
    """The text of the SVG among a figure's files."""
    return next(path for path in paths if path.suffix == ".svg").read_text(encoding="utf-8")


def _written(folder: Path, table: pd.DataFrame, facts: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very report: the same facts, the page of this table, every figure that it shows."""
    from fdlab.report.provenance import table_digest

    try:
        old = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if "claims" not in facts:
            old.pop("claims", None)  # verdicts on this very table stay
        same = old == json.loads(json.dumps(dict(facts)))
        page = (folder / "index.html").read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError, AttributeError):
        return False
    # The page names its figures; asking the table would import matplotlib, which a second comparison can do without.
    shown = re.findall(r"fdlab figures (\w+) --from", page)
    whole = all((folder / "figures" / f"{figure}.pdf").is_file() for figure in shown)
    whole = whole and (folder / "definitions.csv").is_file()
    return same and whole and f"sha256 {table_digest(table)}" in page and "Predict first" not in page


def rewrite_page(folder: Path, table: pd.DataFrame, facts: Mapping[str, Any]) -> Path:
    """Facts and page alone, where something was added that no figure shows; returns the page's path."""
    from fdlab.report.page import write_page

    page = folder / "index.html"
    teach = page.is_file() and "Predict first" in page.read_text(encoding="utf-8")
    write_json(folder / "facts.json", dict(facts))
    return write_page(page, table, facts, teach=teach)


def publish(source: Path | str, out: Path | str, *, teach: bool = False, title: str = "") -> Path:
    """The report in ``source`` once more, under ``out``, from its table and facts alone; returns the page's path."""
    from fdlab.report.folder import read_report

    table, facts = read_report(source)
    return write_report(out, table, facts | ({"title": title} if title else {}), teach=teach, again=True)
