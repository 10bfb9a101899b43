"""A table's definitions: of its metrics and no others, as they are registered."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fdlab.records.definitions import COLUMNS, write_definitions
from fdlab.records.metrics import METRICS
from fdlab.records.table import frame


def test_formula_range_and_source_of_every_metric_of_the_table(tmp_path: Path) -> None:
    names = ["nmi", "distance", "nmi", "some_curve"]
    write_definitions(tmp_path / "definitions.csv", frame([{"metric": name, "value": 1.0} for name in names]))
    found = pd.read_csv(tmp_path / "definitions.csv")
    assert tuple(found.columns) == COLUMNS
    assert list(found["metric"]) == ["nmi", "distance"]
    for row in found.itertuples():
        entry = METRICS[str(row.metric)]
        assert (row.formula, row.source, row.says) == (entry.formula, entry.source, entry.says)
    assert (found["low"] == 0).all()
    assert found["high"][0] == 1
    assert pd.isna(found["high"][1])


def test_no_metric_no_row(tmp_path: Path) -> None:
    write_definitions(tmp_path / "definitions.csv", frame([]))
    assert pd.read_csv(tmp_path / "definitions.csv").empty
