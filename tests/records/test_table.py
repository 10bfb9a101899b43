"""The one table: columns, types, reading back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdlab.errors import FdlabError
from fdlab.records.table import (
    COLUMNS,
    TEXT,
    differences,
    frame,
    join,
    markdown_lines,
    read_table,
    values,
    with_bounds,
    write_table,
)


def test_missing_columns_are_empty_and_order_is_fixed() -> None:
    table = frame([{"model": "a", "metric": "nmi", "value": 0.5}])
    assert tuple(table.columns) == COLUMNS
    assert table["block"].isna().all()
    assert table["reference"].tolist() == [""]


def test_bounds_anew_find_their_rows_and_leave_the_others() -> None:
    place = {"metric": "nmi", "block": 0, "value": 1.0, "low": 0.0, "high": 2.0, "n": 9, "unit": "1"}
    table = frame([place, {**place, "head": 1}, {**place, "x": 1 / 3}, {**place, "metric": "entropy"}])
    anew = [
        {"metric": "nmi", "block": 0, "head": None, "value": 1.0, "low": 0.5, "high": 1.5},
        {"metric": "nmi", "block": 0, "x": 0.3333333333333, "value": 1.0, "low": 0.25, "high": 1.75},
        {"metric": "nmi", "block": 7, "value": 9.0, "low": 8.0, "high": 10.0},  # a row that the table does not have
    ]
    found = with_bounds(table, anew)
    assert found["low"].tolist() == [0.5, 0.0, 0.25, 0.0]
    assert found["high"].tolist() == [1.5, 2.0, 1.75, 2.0]
    kept = ["metric", "block", "head", "x", "n", "unit", "value"]
    assert found[kept].equals(table[kept])


def test_an_unknown_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'metric'"):
        frame([{"metrics": "nmi"}])


@given(
    value=st.floats(allow_nan=False, allow_infinity=False, width=32),
    block=st.one_of(st.none(), st.integers(0, 99)),
    name=st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
        lambda t: t.strip() == t and t.lower() not in {"nan", "na", "null", "none", "n/a", "inf", "<na>"}
    ),
)
def test_a_row_survives_the_disk(
    tmp_path_factory: pytest.TempPathFactory, value: float, block: int | None, name: str
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.csv"
    # The label is text whatever it looks like, so it stands beside one that is no number.
    rows = [{"model": f"m {name}", "value": value, "block": block}]
    write_table(path, frame(rows))
    back = read_table(path)
    assert back["model"][0] == f"m {name}"
    assert back["value"][0] == pytest.approx(value, rel=1e-9)
    assert (back["block"].isna()[0] and block is None) or back["block"][0] == block


def test_values_and_differences_share_the_rows_of_models() -> None:
    table = frame(
        [
            {"metric": "nmi", "value": 0.0},
            {"metric": "nmi", "value": 1.0, "reference": "b"},
            {"metric": "cka", "value": 2.0, "reference": "b"},  # of two models, but no difference
            {"metric": "nmi", "value": 3.0, "reference": "design", "probe": "two_way"},  # of a group of models
        ]
    )
    assert values(table)["value"].tolist() == [0.0, 2.0]
    assert differences(table)["value"].tolist() == [1.0]


def test_a_markdown_table_has_a_line_for_each_row() -> None:
    assert markdown_lines(frame([{"model": "a"}])[["model", "n"]]) == ["| model | n |", "|---|---|", "| a | <NA> |"]


def test_join_keeps_types() -> None:
    both = join([frame([{"model": "a", "block": 1}]), frame([]), frame([{"model": "b"}])])
    assert len(both) == 2
    assert str(both["block"].dtype) == "Int64"


def test_reading_something_else_says_so(tmp_path: object) -> None:
    path = tmp_path / "x.csv"  # type: ignore[operator]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FdlabError, match="not a table of fdlab"):
        read_table(path)
    with pytest.raises(FdlabError, match="cannot be read"):
        read_table(path.with_name("absent.csv"))


LABELS = (
    *("001", "1", "1.0", "010", "1e3", "0x10", "-0", "inf", "Infinity", "1_000", "True", "2020-01-01"),
    *("NA", "n/a", "N/A", "null", "NULL", "None", "nan", "NaN", "-nan", "<NA>", "#N/A", "#NA", "-1.#IND"),
    *(" padded ", "a,b", 'say "x"', "two\nlines", "carriage\rreturn", "#comment", "'quoted'", "тест"),
)


@pytest.mark.parametrize("column", TEXT)
def test_text_is_read_back_as_it_was_written_whatever_it_looks_like(column: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, frame([{column: label, "value": 1.0} for label in LABELS]))
    back = read_table(path)
    assert back[column].tolist() == list(LABELS)
    assert back["value"].tolist() == [1.0] * len(LABELS)
    write_table(tmp_path / "again.csv", back)
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("column", ["seed", "n"])
def test_whole_numbers_of_any_size_stay_whole(column: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, frame([{column: 2**62 + 1}, {column: None}, {column: 0}]))
    assert read_table(path)[column].tolist() == [2**62 + 1, pd.NA, 0]


@pytest.mark.parametrize("kept", [-1, -2, -3, -20, -25])
def test_a_table_that_ends_within_a_row_is_no_table(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_table(path, frame([{"model": "a", "value": 1.0, "unit": "patches", "objective": "x", "reference": "yy"}] * 3))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FdlabError, match="cannot be read"):
        read_table(path)
