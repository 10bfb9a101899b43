"""The one table: every number of fdlab is a row of it, in long form.

``block`` and ``head`` count from 0 and are empty where a row speaks of the whole model (figures label
from 1); ``depth`` = (block + 1) / blocks; ``low`` and ``high`` bound the 95 % interval over ``n`` images
(or test samples, or seeds: the metric says which); ``reference`` names the other model of a difference.
A table of measurements along a training has one column more, ``step`` (``growing.py``).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.errors import NOT_UNDERSTOOD, FdlabError, nearest
from fdlab.records.atomic import replacing
from fdlab.records.seal import unseal

TEXT = ("model", "family", "probe", "metric", "unit", "objective", "reference")
COUNTS = ("seed", "block", "head", "n")
BOUNDS = ("value", "low", "high")
COLUMNS = (
    *("model", "family", "seed", "probe", "metric", "block", "depth", "head", "x", "y"),
    *("value", "low", "high", "n", "unit", "objective", "reference"),
)
STEPPED = (*COLUMNS, "step")  # of a model that is measured while it is trained

CONTROL = "random start"  # the label of the untrained control that is added to measured models

# Measures of two models: their ``reference`` is the other model, and the value is no difference.
OF_TWO = ("cka",)


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows (dicts; missing columns are left empty) as a table with ``COLUMNS`` (``STEPPED`` where one has a step).

    >>> frame([{"model": "DINO", "metric": "nmi", "value": 0.25, "n": 64}])[["metric", "value", "n", "unit"]].to_csv()
    ',metric,value,n,unit\\n0,nmi,0.25,64,\\n'

    Raises:
        ValueError: a row has a key that is no column; the nearest name is given.
    """
    rows = list(rows)
    columns = STEPPED if any("step" in row for row in rows) else COLUMNS
    for row in rows:
        for key in row:
            if key not in columns:
                raise ValueError(f"the table has no column {key!r}.{nearest(key, COLUMNS)}")
    return _typed(pd.DataFrame(rows, columns=list(columns), dtype=object))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    for name in TEXT:
        text = table[name].astype(object)
        table[name] = text.where(text.notna(), "").astype(str)
    for name in (*COUNTS, *(["step"] if "step" in table else [])):
        table[name] = table[name].astype("Int64")
    for name in set(COLUMNS) - set(TEXT) - set(COUNTS):
        table[name] = table[name].astype("float64")
    return table


# Probes whose rows speak of groups of models, and of effects, not of models.
OF_GROUPS = ("two_way", "two_way_seeds", "two_way_holm")


def values(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are values: all but differences to a ``reference``."""
    return table[is_value(table)]


def is_value(table: pd.DataFrame) -> pd.Series:
    """Which rows are values (``values``), for those who select further."""
    value = (table["reference"] == "") | table["metric"].isin(OF_TWO)
    return value & ~table["probe"].isin(OF_GROUPS)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are differences: ``model`` minus ``reference``."""
    difference = (table["reference"] != "") & ~table["metric"].isin(OF_TWO)
    return table[difference & ~table["probe"].isin(OF_GROUPS)]


def at_last_step(table: pd.DataFrame) -> pd.DataFrame:
    """Without the earlier steps of models that were measured along a training; any other table as it is.

    Of each model, seed and probe the rows without a step are kept; where there are none, those of the last step.
    """
    if "step" not in table:
        return table
    steps = table.groupby(["model", "seed", "probe"], dropna=False)["step"]
    last = (table["step"] == steps.transform("max")) & (steps.transform("count") == steps.transform("size"))
    return table[table["step"].isna() | last.fillna(False).astype(bool)]


def join(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Several tables as one."""
    kept = [table for table in tables if len(table)]
    return _typed(pd.concat([t.assign() for t in kept], ignore_index=True)) if kept else frame([])


def with_bounds(table: pd.DataFrame, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table with ``value``, ``low`` and ``high`` of those of its rows that ``rows`` has anew.

    A row is known by metric, block, head, x and y, as a written table has them (10 significant digits).
    """
    anew = {_key(row): {name: row[name] for name in BOUNDS if name in row} for row in rows}
    updated = [{**row, **anew.get(_key(row), {})} for row in table.to_dict("records")]
    return _typed(pd.DataFrame(updated, columns=list(COLUMNS)))


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    numbers = [row.get(name) for name in ("block", "head", "x", "y")]
    return row["metric"], *("" if number is None or pd.isna(number) else f"{float(number):.10g}" for number in numbers)


def markdown_lines(table: pd.DataFrame) -> list[str]:
    """Any table as the lines of a Markdown table, cells as ``str`` shows them.

    >>> markdown_lines(pd.DataFrame({"model": ["DINO"], "accuracy": ["0.83 (0.81 to 0.85)"]}))
    ['| model | accuracy |', '|---|---|', '| DINO | 0.83 (0.81 to 0.85) |']
    """
    rows: list[Iterable[Any]] = [table.columns, *table.itertuples(index=False)]
    header, *body = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return [header, "|" + "---|" * len(table.columns), *body]


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Writes the table as CSV, atomically; numbers with 10 significant digits. Checksums of the folder end with it."""
    unseal(Path(path).parent)
    with replacing(path) as draft:
        table.to_csv(draft, index=False, float_format="%.10g")


def read_table(path: Path | str) -> pd.DataFrame:
    """Reads a CSV that ``write_table`` wrote: text stays the text that it is (``001``, ``NA``), only '' is no number.

    Raises:
        FdlabError: code 3 where the file is absent, is no such table, or ends within a row.
    """
    try:
        table = _as_text(Path(path))
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise FdlabError(
            f"The table {path} cannot be read.",
            str(error),
            "Give the command that made it again.",
            NOT_UNDERSTOOD,
        ) from None
    if tuple(table.columns) not in (COLUMNS, STEPPED):
        raise FdlabError(
            f"{path} is not a table of fdlab.",
            f"Its columns are {', '.join(map(str, table.columns[:6]))}, ...",
            f"Expected: {', '.join(COLUMNS)}.",
            NOT_UNDERSTOOD,
        )
    try:
        numbers = {name: _numbers(table[name], name) for name in map(str, table.columns) if name not in TEXT}
        return _typed(table.assign(**numbers))
    except (ValueError, OverflowError) as error:
        raise FdlabError(
            f"The table {path} cannot be read.", str(error), "Give the command that made it again.", NOT_UNDERSTOOD
        ) from None


def _as_text(path: Path) -> pd.DataFrame:
    """The file's cells as they are written. Raises ValueError where a row is cut short."""
    content = path.read_bytes()
    # Only the line ends that `write_table` writes: a lone carriage return is part of a label.
    ends = None if b"\r\n" in content[:2000] else "\n"
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_filter=False, lineterminator=ends)
    if not content.endswith(b"\n") or table.isna().any(axis=None):
        raise ValueError("A row is cut short.")
    return table


def _numbers(cells: pd.Series, name: str) -> pd.Series:
    """Cells as numbers, exact also where they are large; only an empty one is missing."""
    if name in COUNTS or name == "step":
        known = [
            None if cell == "" else int(cell) if cell.lstrip("-").isdigit() else int(float(cell)) for cell in cells
        ]
        return pd.Series(pd.array(known, dtype="Int64"), index=cells.index)
    return cells.where(cells != "", "nan").astype("float64")
