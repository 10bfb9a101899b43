"""What a verb prints of a result: JSON, the path alone, or tables, lines and notes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fdlab.cli.diagnose.run import LINES
from fdlab.cli.show import show
from fdlab.records.table import frame

RESULT = {"table": pd.DataFrame({"a": [1, 2]}), "page": Path("out/index.html"), "notes": ["few images"]}


def test_a_result_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"Means": pd.DataFrame({"late_nmi": ["0.5"]}), "Differences": pd.DataFrame({"x": []})}
    show(RESULT, quiet=False, as_json=False, tables=tables, lines=["m: 1"])
    out, err = capsys.readouterr()
    assert out.index("Means") < out.index("nmi") < out.index("0.5") < out.index("m: 1") < out.index("Report: out/")
    assert "late" not in out
    assert "Differences" not in out  # an empty table
    assert err == "Note: few images\n"


def test_a_result_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        show(RESULT, quiet=quiet, as_json=True)
        out, err = capsys.readouterr()
        assert json.loads(out) == [{"a": 1}, {"a": 2}]
        assert err == ""
    show(RESULT, quiet=True, as_json=False, lines=["m: 1"])
    assert capsys.readouterr() == ("out/index.html\n", "")


def test_lines_of_probes_count_blocks_and_heads_from_one() -> None:
    common = {"model": "m", "seed": 0, "probe": "p", "objective": "the loss"}
    rows = frame(
        [
            {**common, "metric": "eigenvalue_1", "block": 0, "value": 2.0, "low": 1.0, "high": 3.0},
            {**common, "metric": "trace", "value": 4.0},
            {**common, "metric": "spectral_mass", "value": 9.0},
        ]
    )
    assert list(LINES["hessian"](rows)) == ["Loss: the loss", "m block 1: eigenvalue_1 2 (1 to 3)", "m: trace 4"]
    effects = [{**common, "metric": "head_effect", "block": 1, "head": head, "value": head / 8} for head in range(4)]
    shown = list(LINES["attribution"](frame(effects)))
    assert shown[0] == "m: score: the loss"
    assert shown[1:] == [f"m: head_effect {head / 8:.4g} of block 2 head {head + 1}" for head in (3, 2, 1)]


def test_lines_of_a_landscape_name_the_middle_the_range_and_what_is_not_finite() -> None:
    common = {"model": "m", "seed": 0, "probe": "landscape", "objective": "the loss", "metric": "loss_line", "n": 8}
    points = [(-1.0, 3.0), (0.0, 1.0), (1.0, float("nan"))]
    rows = frame([{**common, "x": x, "value": value} for x, value in points])
    assert list(LINES["landscape"](rows))[1:] == ["m: loss_line 1 at x = 0, 1 to 3 over 3 points, 1 of them not finite"]
