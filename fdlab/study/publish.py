"""A report's folder again from its table and facts: page, figures, LaTeX. Nothing is computed, nothing else deleted."""

from __future__ import annotations

from pathlib import Path

from fdlab.records.atomic import writable_folder, write_json


def publish(source: Path | str, out: Path | str, *, teach: bool = False, title: str = "") -> Path:
    """Writes ``index.html``, ``table.csv``, ``facts.json``, ``figures/`` and ``latex/`` under ``out``.

    Args:
        source: a report's folder.
        teach: a question before each figure, a glossary, exercises.
        title: another title of the page.

    Returns:
        The page's path.
    """
    from fdlab.report.figures import write_figures
    from fdlab.report.folder import read_report
    from fdlab.report.latex import write_latex
    from fdlab.report.page import write_page

    table, facts = read_report(source)
    if title:
        facts["title"] = title
    folder = writable_folder(out)
    write_json(folder / "facts.json", facts)
    write_figures(folder / "figures", table, facts)
    write_latex(folder / "latex", table, facts)
    return write_page(folder / "index.html", table, facts, teach=teach)
