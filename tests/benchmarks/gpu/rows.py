"""What a part reports: one row a figure, as a line of JSON between the processes, as CSV and Markdown for people."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "row "  # begins a line that holds a row


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        part: whose it is.
        what: what was measured, with its sizes.
        value: empty where it failed.
        unit: of the value.
        expected: what was estimated beforehand; empty where nothing was.
        note: what else belongs to it, or why it failed.
    """

    part: str
    what: str
    value: float | None
    unit: str
    expected: str = ""
    note: str = ""


def tell(row: Row) -> None:
    """Prints the row for the process that writes the table."""
    print(MARK + json.dumps(asdict(row)), flush=True)


def heard(line: str) -> Row | None:
    """The row of a printed line; None where it holds none."""
    return Row(**json.loads(line[len(MARK) :])) if line.startswith(MARK) else None


def write(rows: Sequence[Row], folder: Path, heading: str) -> None:
    """``gpu.csv`` and ``gpu.md`` in ``folder``, whole each time: a sitting that is cut off leaves what it had."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(Row.__dataclass_fields__)
    with (folder / "gpu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    lines = [heading, "", "| part | what | value | unit | expected | note |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = "not measured" if row.value is None else f"{row.value:.4g}"
        cells = (row.part, row.what, value, row.unit, row.expected, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    (folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[-1:]), file=sys.stderr, flush=True)
