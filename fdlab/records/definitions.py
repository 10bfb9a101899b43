"""The definitions of a table's metrics as a table of their own, so that its numbers travel with what they mean."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from fdlab.records.atomic import replacing
from fdlab.records.metrics import METRICS

COLUMNS = ("metric", "label", "unit", "formula", "low", "high", "says", "not_says", "source")


def definitions(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each metric that the table has and that is defined, in the order of its first row.

    Columns ``COLUMNS``; ``low`` and ``high`` bound the possible values and are empty where there is no bound.
    They are no interval: how the 95 % intervals of a table are made stands in ``intervals.py``.
    """
    entries = [asdict(METRICS[name]) for name in dict.fromkeys(table["metric"]) if name in METRICS]
    return pd.DataFrame([{**entry, "metric": entry["name"]} for entry in entries], columns=list(COLUMNS))


def write_definitions(path: Path | str, table: pd.DataFrame) -> None:
    """Writes ``definitions`` of the table as CSV, atomically."""
    with replacing(path) as draft:
        definitions(table).to_csv(draft, index=False)
