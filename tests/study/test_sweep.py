"""A grid of settings and seeds: what is trained, what is kept, and what the one table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import FdlabError
from fdlab.records.intervals import t_interval
from fdlab.records.table import read_table
from fdlab.study.sweep import grid, parse_over, sweep

TINY = {
    "run.steps": 3,
    "run.batch": 8,
    "data.source": "digits#train[:64]",
    **{f"masked.model.{key}": value for key, value in {"width": 16, "depth": 1, "heads": 2, "patch_size": 8}.items()},
}


def test_values_are_read_as_toml_or_as_text() -> None:
    axes = parse_over(["optim.lr=1e-3,3e-3", "masked.loss=mse, l1", "view.crop=[0.5, 1.0],[0.8, 1.0]"])
    assert axes == {"optim.lr": [1e-3, 3e-3], "masked.loss": ["mse", "l1"], "view.crop": [[0.5, 1.0], [0.8, 1.0]]}
    points = grid({"a": [1, 2], "b": ["x", "y"]})
    assert [point.label for point in points] == ["a=1, b=x", "a=1, b=y", "a=2, b=x", "a=2, b=y"]
    assert [point.x for point in grid({"a": [1, 2.5]})] == [1.0, 2.5]
    assert grid({"a": [True]})[0].x is None
    for wrong in (["optim.lr"], ["optim.lr="], ["a=1,1"], ["a=1", "a=2"]):
        with pytest.raises(FdlabError) as caught:
            parse_over(wrong)
        assert caught.value.code == 2


def test_a_sweep_is_one_table_is_continued_and_keeps_what_diverged(tmp_path: Path) -> None:
    over = {"optim.lr": [1e-3, 1e30]}
    given = {"seeds": 2, "overrides": {**TINY, "optim.clip": 0, "optim.warmup": 0}, "workers": 1}
    table = sweep("digits/masked", over, tmp_path / "s", **given)
    good = table[table["model"] == "optim.lr=0.001"]
    losses = good[(good["metric"] == "final_loss") & good["seed"].notna()]["value"].to_numpy()
    mean = good[(good["metric"] == "final_loss") & good["seed"].isna()].iloc[0]
    assert len(losses) == 2
    np.testing.assert_allclose([mean["value"], mean["low"], mean["high"]], t_interval(losses)[:3])
    assert (mean["n"], mean["x"]) == (2, 1e-3)
    lost = table[(table["metric"] == "diverged") & table["seed"].isna()].set_index("model")["value"]
    assert lost.to_dict() == {"optim.lr=0.001": 0.0, "optim.lr=1e+30": 1.0}
    assert len(read_table(tmp_path / "s" / "table.csv")) == len(table)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(times) == 2
    again = sweep("digits/masked", over, tmp_path / "s", **given)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == times
    assert len(again) == len(table)


def test_parts_of_a_sweep_make_the_whole_and_wrong_points_stop_it_before_it_begins(tmp_path: Path) -> None:
    over = {"optim.lr": [1e-3, 2e-3]}
    first = sweep("digits/masked", over, tmp_path / "s", overrides=TINY, workers=1, part=(1, 2))
    assert set(first["model"]) == {"optim.lr=0.001"}
    both = sweep("digits/masked", over, tmp_path / "s", overrides=TINY, workers=1, part=(2, 2))
    assert set(both["model"]) == {"optim.lr=0.001", "optim.lr=0.002"}
    with pytest.raises(FdlabError, match="optim") as caught:
        sweep("digits/masked", {"optim.lr": [1e-3, -1.0]}, tmp_path / "t", overrides=TINY)
    assert caught.value.code == 2
    assert not list((tmp_path / "t").glob("*/recipe.toml"))
    said = CliRunner().invoke(app, ["sweep", "digits/masked", "--part", "x", "-o", str(tmp_path / "u")])
    assert isinstance(said.exception, FdlabError)


def test_the_command_prints_the_means(tmp_path: Path) -> None:
    words = ["sweep", "digits/masked", "--over", "optim.lr=1e-3", "-o", str(tmp_path / "s"), "--json", "--quiet"]
    said = CliRunner().invoke(app, [*words, *(f"--set={key}={value}" for key, value in TINY.items())])
    assert said.exit_code == 0, said.exception
    found = {row["metric"]: row for row in json.loads(said.stdout)}
    assert found["final_loss"]["n"] == 1
    assert found["final_loss"]["low"] is None, "one seed has no interval"
