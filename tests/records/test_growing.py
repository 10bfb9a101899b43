"""The table that grows along a training: whole at any moment, no step twice, the same text after a restart."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fdlab.errors import FdlabError
from fdlab.records.growing import GrowingTable
from fdlab.records.seal import SEAL, damaged, seal
from fdlab.records.table import COLUMNS, STEPPED, at_last_step, frame, join, read_table, write_table

ODD = ('a "b", c', "NA", "007", "two\nlines", "ü")


def rows(value: float, count: int = 5) -> pd.DataFrame:
    common: dict[str, Any] = {"probe": "attention", "metric": "entropy", "seed": 0, "n": 8}
    return frame({**common, "model": ODD[i % 5], "block": i, "value": value + i / 7} for i in range(count))


def test_it_grows_in_the_order_of_steps_and_a_step_measured_again_replaces_its_rows(tmp_path: Path) -> None:
    table = GrowingTable(tmp_path / "table.csv")
    for step, value in ((20, 2.0), (10, 1.0), (20, 5.0)):
        table.put(step, rows(value))
    read = read_table(tmp_path / "table.csv")
    assert tuple(read.columns) == STEPPED
    assert read["step"].tolist() == [10] * 5 + [20] * 5
    assert read["value"].tolist() == pytest.approx([1 + i / 7 for i in range(5)] + [5 + i / 7 for i in range(5)])
    assert read["model"].tolist() == [*ODD, *ODD]


def test_a_restart_keeps_every_byte_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    first = GrowingTable(path)
    first.put(1, rows(1 / 3))
    first.put(2, rows(2 / 3))
    before = path.read_bytes()
    again = GrowingTable(path)
    assert again.steps == [1, 2]
    again.put(2, rows(2 / 3))
    assert path.read_bytes() == before
    again.put(3, rows(1.0))
    assert path.read_bytes().startswith(before)


def test_what_another_process_wrote_is_kept_and_what_it_lost_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    one, other = GrowingTable(path), GrowingTable(path)
    one.put(1, rows(1.0))
    older = read_table(path)
    other.put(2, rows(2.0))
    one.put(3, rows(3.0))
    assert read_table(path)["step"].unique().tolist() == [1, 2, 3]
    write_table(path, older)  # a report that was being written from what it had read earlier
    one.put(4, rows(4.0))
    assert read_table(path)["step"].unique().tolist() == [1, 2, 3, 4]


def test_checksums_of_a_report_do_not_call_a_grown_table_damaged(tmp_path: Path) -> None:
    table = GrowingTable(tmp_path / "table.csv")
    table.put(1, rows(1.0))
    seal(tmp_path, [tmp_path / "table.csv"])
    table.put(2, rows(2.0))
    assert not damaged(tmp_path, ["table.csv"])
    assert not (tmp_path / SEAL).exists()


def test_a_kill_leaves_a_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    child = os.fork()
    if child == 0:
        table = GrowingTable(path)
        for step in range(1, 100_000):
            table.put(step, rows(1.0, 40))
    while not path.is_file():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    steps = read_table(path).groupby("step").size()
    assert steps.index.tolist() == list(range(1, len(steps) + 1))
    assert set(steps) == {40}
    GrowingTable(path).put(len(steps) + 1, rows(1.0, 40))
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]  # no draft is left


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FdlabError, match="not a table of fdlab"):
        GrowingTable(tmp_path / "table.csv")


def test_the_last_step_stands_for_a_model_unless_its_end_was_measured_by_itself() -> None:
    common: dict[str, Any] = {"probe": "attention", "metric": "entropy"}
    steps = [{**common, "model": m, "step": s, "value": s} for m, last in (("a", 30), ("b", 20)) for s in (10, last)]
    plain = [{**common, "model": "b", "value": 7.0}, {**common, "model": "c", "value": 8.0}]
    table = join([frame(steps), frame(plain)])
    assert tuple(table.columns) == STEPPED
    kept = at_last_step(table)
    assert dict(zip(kept["model"], kept["value"], strict=True)) == {"a": 30.0, "b": 7.0, "c": 8.0}
    assert tuple(at_last_step(frame(plain)).columns) == COLUMNS
