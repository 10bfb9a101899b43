"""The script for the day a GPU is there: every part runs, in its tiny form, and none takes the others with it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.gpu import __main__ as script

HOME = Path(__file__).resolve().parents[2]
SLOW = {"distilling, compiled", "tests"}  # a compiler, and tests that skip here


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "gpu.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_part_runs_in_its_tiny_form(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", "--out", str(tmp_path)]
    names = [name for name in script.PARTS if name not in SLOW]
    command += [word for name in names for word in ("--only", name)]
    done = subprocess.run(command, cwd=HOME, env={**os.environ, "PYTHONPATH": str(HOME)}, check=False, timeout=300)
    assert done.returncode == 0
    table = rows(tmp_path)
    assert not [row for row in table if row["what"] in ("failed", "ended", "not begun")], table
    assert {row["part"] for row in table if row["value"]} == set(names)
    assert "Tiny sizes" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


FAULTY = """
import os, sys, time
for name in sys.argv[2::2]:
    print("part " + name, flush=True)
    if name == "peaks":
        os._exit(7)
    if name == "busy":
        time.sleep(60)
    print('row {"part": "%s", "what": "x", "value": 1.5, "unit": "s", "expected": "", "note": ""}' % name, flush=True)
    print("done " + name, flush=True)
"""


def test_a_part_that_dies_or_hangs_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    bounds = {name: (place, 2 if name == "busy" else 30) for name, (place, _) in script.PARTS.items()}
    names = ["distilling", "peaks", "attention", "busy", "features"]
    before = dict(script.PARTS)
    script.PARTS.update(bounds)
    try:
        script.Sitting(tmp_path, 1.0, [sys.executable, "-c", FAULTY], "said").run(names)
    finally:
        script.PARTS.update(before)
    found = {(row["part"], row["what"]): row for row in rows(tmp_path)}
    assert [name for name in names if (name, "x") in found] == ["distilling", "attention", "features"]
    assert found["peaks", "failed"]["note"] == "its process ended with 7"
    assert "took longer than 2 s" in found["busy", "ended"]["note"]


def test_parts_for_which_no_time_is_left_are_named(tmp_path: Path) -> None:
    script.Sitting(tmp_path, 0.0, [sys.executable, "-c", FAULTY], "said").run(["peaks", "busy"])
    assert [(row["part"], row["what"]) for row in rows(tmp_path)] == [("peaks", "not begun"), ("busy", "not begun")]
