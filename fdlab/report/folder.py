"""A report's folder: what was written there is enough to draw and write everything again."""

from __future__ import annotations

import json
from pathlib import Path

from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.records.seal import SEAL, damaged
from fdlab.records.table import read_table
from fdlab.report.report import Report

READ = ("table.csv", "facts.json")


def read_report(folder: Path | str) -> Report:
    """The report of a folder (or of a lone table.csv, of which no facts are known).

    Raises:
        FdlabError: code 3, there is no table, or one of the files is damaged.
    """
    path = Path(folder)
    if path.suffix == ".csv":
        return Report(read_table(path))
    if not (path / "table.csv").is_file():
        raise FdlabError(
            f"{path} is no report.",
            "It has no table.csv.",
            "Name a folder that `fdlab compare`, `fdlab diagnose` or `fdlab demo` wrote, or a table.csv.",
            code=NOT_UNDERSTOOD,
        )
    if wrong := damaged(path, READ):
        raise FdlabError(
            f"The report {path} is damaged.",
            f"Its {' and '.join(wrong)} changed since the report was written: the checksums in {SEAL} differ.",
            f"Give the command that made it again; or, if you changed the file on purpose, remove {path / SEAL}.",
            code=NOT_UNDERSTOOD,
        )
    table = read_table(path / "table.csv")
    try:
        facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("It holds no table of facts.")
    except FileNotFoundError:
        facts = {}
    except (OSError, ValueError, RecursionError) as error:
        raise FdlabError(
            f"{path / 'facts.json'} cannot be read.",
            str(error),
            "Give the command that made the report again; or remove the file, and captions say less.",
            code=NOT_UNDERSTOOD,
        ) from None
    return Report(table, facts)
