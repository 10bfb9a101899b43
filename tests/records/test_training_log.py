"""A run's log as series, in the terminal and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.records.training_log import BARS, read_run, runs_in, sparkline


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text("[run]\nsteps = 40\n")
    lines = [{"step": step, "loss": 4.0 / step, "lr": 1e-3, "note": "text"} for step in (10, 20, 30)]
    lines.append({"step": 30, "knn": 0.5})
    lines.append({"step": 40, "loss": float("nan")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_series_hold_the_finite_numbers(run: Path) -> None:
    shown = read_run(run)
    assert shown["series"]["loss"] == ([10, 20, 30], [0.4, 0.2, 4.0 / 30])
    assert shown["series"]["knn"] == ([30], [0.5])
    assert "note" not in shown["series"]
    assert (shown["state"], shown["steps"]) == ("not finished", 40)
    assert runs_in(run.parent)[0]["run"] == str(run)


def test_shown_in_the_terminal_and_as_a_picture(run: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["runs", "show", str(run)]).output
    assert "not finished, step 40 of 40" in said
    assert "0.4 at 10, 0.1333 at 30" in said
    found = json.loads(CliRunner().invoke(app, ["runs", "show", str(run), "--json"]).output)
    assert found["series"]["lr"][1] == [1e-3] * 3
    assert CliRunner().invoke(app, ["runs", "show", str(run), "-o", str(tmp_path / "c.svg")]).exit_code == 0
    assert "loss" in (tmp_path / "c.svg").read_text()
    assert str(run) in CliRunner().invoke(app, ["runs", str(run.parent)]).output


def test_what_is_no_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="is no run"):
        read_run(tmp_path)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(FdlabError, match="logged nothing yet"):
        read_run(run)
    with pytest.raises(FdlabError, match="no folder"):
        runs_in(tmp_path / "absent")


@given(st.lists(st.floats(-1e6, 1e6), max_size=200))
def test_a_sparkline_fits_and_keeps_the_ends(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == min(40, len(values))
    assert set(line) <= set(BARS)


def test_a_falling_line_falls() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([1.0, 1.0]) == "▄▄"


def test_a_length_in_epochs_is_said_as_epochs_until_the_steps_are_known(run: Path) -> None:
    (run / "recipe.toml").write_text("[run]\nsteps = 0\nepochs = 5\n", encoding="utf-8")
    said = CliRunner().invoke(app, ["runs", "show", str(run)]).output
    assert "5 epochs asked for" in said
    assert "of 0" not in said
    RunFolder(run).finish({"steps": 60})
    assert "of 60" in CliRunner().invoke(app, ["runs", "show", str(run)]).output
