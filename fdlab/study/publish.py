"""A report's folder: table, facts, figures, LaTeX and page. The same call for every verb; nothing else is deleted."""

from __future__ import annotations

import json
from pathlib import Path

from fdlab.records.atomic import read_json, writable_folder, write_json
from fdlab.records.definitions import write_definitions
from fdlab.records.seal import damaged, seal, unseal
from fdlab.records.table import read_table, write_table
from fdlab.report.report import Report

CONTENTS = "contents.json"  # which figures of which table the page shows: what is asked before it is written again


def write_report(out: Path | str, report: Report, *, teach: bool = False, again: bool = False) -> Path:
    """Writes ``table.csv``, ``definitions.csv``, ``facts.json``, ``figures/``, ``latex/``, the page, ``contents.json``.

    Args:
        teach: a question before each figure, a glossary, exercises.
        again: draw also what is there already with the same table and facts.

    Returns:
        The page's path.
    """
    folder = writable_folder(out)
    if not again and _written(folder, report, teach):
        return folder / "index.html"
    from fdlab.report.figures import write_figures
    from fdlab.report.latex import write_latex
    from fdlab.report.page import write_page

    write_table(folder / "table.csv", report.table)
    # Drawn from the table as it is written: figures are then the same bytes measured and read again.
    report = Report(read_table(folder / "table.csv"), report.facts)
    write_definitions(folder / "definitions.csv", report.table)
    write_json(folder / "facts.json", dict(report.facts.written))
    files = write_figures(folder / "figures", report)
    write_latex(folder / "latex", report)
    drawn = {figure: next(p for p in paths if p.suffix == ".svg").read_text("utf-8") for figure, paths in files.items()}
    page = write_page(folder / "index.html", report, teach=teach, drawn=drawn, files=True)
    write_json(folder / CONTENTS, {"table_sha256": report.digest, "teach": teach, "figures": list(files)})
    _seal(folder)
    return page


def _seal(folder: Path) -> None:
    """Checksums of all that a report consists of."""
    own = [folder / name for name in ("table.csv", "definitions.csv", "facts.json", "index.html", CONTENTS)]
    parts = [path for name in ("figures", "latex") for path in (folder / name).rglob("*")]
    seal(folder, (path for path in [*own, *parts] if path.is_file() and not path.name.startswith(".")))


def _written(folder: Path, report: Report, teach: bool) -> bool:
    """Whether the folder holds this very report: the same facts, the page of this table, every figure that it shows.

    The figures are named by ``contents.json``: asking the table would import matplotlib, which a second comparison
    can do without.
    """
    old, contents = read_json(folder / "facts.json"), read_json(folder / CONTENTS)
    if "claims" not in report.facts.written:
        old.pop("claims", None)  # verdicts on this very table stay
    same = old == json.loads(json.dumps(dict(report.facts.written), default=str))
    figures = [f"figures/{figure}.pdf" for figure in contents.pop("figures", ())]
    whole = all((folder / name).is_file() for name in ("index.html", "facts.json", "definitions.csv", *figures))
    return same and whole and not damaged(folder) and contents == {"table_sha256": report.digest, "teach": teach}


def rewrite_page(folder: Path, report: Report) -> Path:
    """Facts and page alone, where something was added that no figure shows; returns the page's path."""
    from fdlab.report.page import write_page

    unseal(folder)
    write_json(folder / "facts.json", dict(report.facts.written))
    page = write_page(folder / "index.html", report, teach=bool(read_json(folder / CONTENTS).get("teach")), files=True)
    _seal(folder)
    return page


def publish(source: Path | str, out: Path | str, *, teach: bool = False, title: str = "") -> Path:
    """The report in ``source`` once more, under ``out``, from its table and facts alone; returns the page's path."""
    from fdlab.report.folder import read_report

    report = read_report(source)
    return write_report(out, report.with_facts(title=title) if title else report, teach=teach, again=True)
