"""The one table: every number of fdlab is a row of it, in long form.

``block`` and ``head`` count from 0 and are empty where a row speaks of the whole model (figures label
from 1); ``depth`` = (block + 1) / blocks; ``low`` and ``high`` bound the 95 % interval over ``n`` images
(or test samples, or seeds: the metric says which); ``reference`` names the other model of a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.errors import NOT_UNDERSTOOD, FdlabError, nearest
from fdlab.records.atomic import replacing

TEXT = ("model", "family", "probe", "metric", "unit", "objective", "reference")
COUNTS = ("seed", "block", "head", "n")
BOUNDS = ("value", "low", "high")
COLUMNS = (
    *("model", "family", "seed", "probe", "metric", "block", "depth", "head", "x", "y"),
    *("value", "low", "high", "n", "unit", "objective", "reference"),
)

CONTROL = "random start"  # the label of the untrained control that is added to measured models

# Measures of two models: their ``reference`` is the other model, and the value is no difference.
OF_TWO = ("cka",)


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows (dicts; missing columns are left empty) as a table with exactly ``COLUMNS``.

    >>> frame([{"model": "DINO", "metric": "nmi", "value": 0.25, "n": 64}])[["metric", "value", "n", "unit"]].to_csv()
    ',metric,value,n,unit\\n0,nmi,0.25,64,\\n'

    Raises:
        ValueError: a row has a key that is no column; the nearest name is given.
    """
    rows = list(rows)
    for row in rows:
        for key in row:
            if key not in COLUMNS:
                raise ValueError(f"the table has no column {key!r}.{nearest(key, COLUMNS)}")
    return _typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    for name in TEXT:
        text = table[name].astype(object)
        table[name] = text.where(text.notna(), "").astype(str)
    for name in COUNTS:
        table[name] = table[name].astype("Int64")
    for name in set(COLUMNS) - set(TEXT) - set(COUNTS):
        table[name] = table[name].astype("float64")
    return table


# Probes whose rows speak of groups of models, and of effects, not of models.
OF_GROUPS = ("two_way",)


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
    """Writes the table as CSV, atomically; numbers with 10 significant digits."""
    with replacing(path) as draft:
        table.to_csv(draft, index=False, float_format="%.10g")


def read_table(path: Path | str) -> pd.DataFrame:
    """Reads a CSV that ``write_table`` wrote.

    Raises:
        FdlabError: code 3 where the file is absent or is no such table.
    """
    try:
        table = pd.read_csv(path, keep_default_na=True)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise FdlabError(
            f"The table {path} cannot be read.",
            str(error),
            "Give the command that made it again.",
            NOT_UNDERSTOOD,
        ) from None
    if tuple(table.columns) != COLUMNS:
        raise FdlabError(
            f"{path} is not a table of fdlab.",
            f"Its columns are {', '.join(map(str, table.columns[:6]))}, ...",
            f"Expected: {', '.join(COLUMNS)}.",
            NOT_UNDERSTOOD,
        )
    return _typed(table)
