"""A grid of rates and seeds from two starts: what is measured, what is continued, what diverged, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import FdlabError
from fdlab.records.intervals import t_interval
from fdlab.records.run_folder import RunFolder
from fdlab.study.rate_search import Search, Start
from fdlab.study.trainability import check, trainability
from fdlab.study.training import pretrain

SMALL = {f"contrastive.model.{key}": value for key, value in {"width": 16, "depth": 2, "heads": 2}.items()}
TINY = {
    "run.steps": 8,
    "run.batch": 16,
    "data.source": "digits#train[:160]",
    "data.test": "digits#test[:60]",
    "data.validation": 40,
    "data.per_class": 0,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("start")
    data = "digits#train[:64]"
    return str(pretrain("digits/contrastive", data=data, out=folder / "c", overrides={**SMALL, "run.steps": 2}))


def measured(start: str, out: Path) -> dict[str, Any]:
    given = {"rates": [1e-3, 1e-2], "seeds": 2, "overrides": TINY, "along": 1, "images": 4, "workers": 1}
    return trainability([f"one={start}", f"other=random:{start}"], out, **given)


def test_one_table_over_rates_and_seeds_that_is_continued(start: str, tmp_path: Path) -> None:
    table = measured(start, tmp_path)["table"]
    own = table[(table["probe"] == "trainability") & (table["model"] == "one")]
    by_rate = own[(own["metric"] == "accuracy") & own["seed"].notna()]
    assert sorted(by_rate["x"].unique()) == [1e-3, 1e-2]
    assert len(by_rate) == 4
    best = own[(own["metric"] == "best_accuracy") & own["seed"].notna()]["value"].to_numpy()
    mean = own[(own["metric"] == "best_accuracy") & own["seed"].isna()].iloc[0]
    np.testing.assert_allclose([mean["value"], mean["low"], mean["high"]], t_interval(best)[:3])
    for metric in ("lr_width", "steps_to_loss", "best_rate", "eigenvalue_1_balanced"):
        assert (own["metric"] == metric).any(), metric
    # The slowest model of each seed reaches the mark at its own end, and no model needs longer.
    paces = table[(table["metric"] == "steps_to_loss") & table["seed"].notna()]
    assert paces.groupby("seed")["value"].max().le(8).all()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(times) == 8
    lost = next(tmp_path.rglob("run.json"))
    lost.unlink()
    again = measured(start, tmp_path)["table"]
    assert len(again) == len(table)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert {path for path in times if after[path] != times[path]} == {lost}


def finished(folder: Path, start: Start, rate: float, validation: float, correct: int, loss: float) -> None:
    """A run's facts and log, as a training leaves them."""
    from fdlab.records.store import Record
    from fdlab.records.table import frame

    run = RunFolder(folder / start.name / f"lr-{rate:g}")
    run.path.mkdir(parents=True)
    for step in (5, 10, 15, 20):
        run.append_log({"step": step, "loss": loss + 0.1 * (20 - step)})
    row = {"model": start.label, "seed": start.seed, "metric": "accuracy", "value": correct / 100}
    Record(frame([row])).save(run.path / "record")
    run.finish({"validation_accuracy": validation, "final_loss": loss, "correct": correct, "count": 100})


def test_validation_chooses_the_rate_and_a_rate_that_diverged_is_counted(tmp_path: Path) -> None:
    rates, a = [1e-3, 1e-2, 1e-1], Start("a", "a", 0)
    finished(tmp_path, a, 1e-3, 0.70, 81, 1.0)
    finished(tmp_path, a, 1e-2, 0.80, 80, 0.5)  # chosen, although it tests lower
    run = RunFolder(tmp_path / a.name / "lr-0.1")
    run.path.mkdir(parents=True)
    (run.path / "failed.json").write_text('{"why": "the loss is not a number"}')
    search = Search(tmp_path, rates)
    assert search.best_rate(a) == 1e-2
    table, said = search.collect([a])
    value = {row.metric: row.value for row in table[table["seed"].notna() & table["x"].isna()].itertuples()}
    assert value["best_accuracy"] == 0.80
    assert value["lr_width"] == pytest.approx(1.0)
    diverged = table[(table["metric"] == "diverged") & table["seed"].notna()].set_index("x")["value"]
    assert diverged.to_dict() == {1e-3: 0.0, 1e-2: 0.0, 1e-1: 1.0}
    assert said == ["a: lr_width is a lower bound, it reaches the lowest rate of the grid in 1 of 1 seeds."]


def test_of_equally_good_rates_the_one_with_the_lower_loss_is_chosen(tmp_path: Path) -> None:
    a = Start("a", "a", 0)
    finished(tmp_path, a, 1e-3, 0.8, 80, 1.0)
    finished(tmp_path, a, 1e-2, 0.8, 80, 0.5)
    assert Search(tmp_path, [1e-3, 1e-2]).best_rate(a) == 1e-2
    assert Search(tmp_path, [1e-2, 1e-3]).best_rate(a) == 1e-2


def test_pace_is_to_the_slowest_models_final_loss(tmp_path: Path) -> None:
    a, b = Start("a", "a", 0), Start("b", "b", 0)
    for start, loss in ((a, 1.0), (b, 0.5)):
        finished(tmp_path, start, 1e-3, 0.5, 50, loss)
        finished(tmp_path, start, 1e-2, 0.4, 40, 9.0)
    table, _ = Search(tmp_path, [1e-3, 1e-2]).collect([a, b])
    pace = table[(table["metric"] == "steps_to_loss") & table["seed"].notna()].set_index("model")["value"]
    # Smoothed over three lines: a ends at 1.5, b passes 1.5 on the way from 2.25 (step 10) to 1.5 (step 15).
    assert pace["a"] == pytest.approx(20)
    assert pace["b"] == pytest.approx(15)


def test_what_is_no_grid_or_no_split_is_refused(start: str, tmp_path: Path) -> None:
    for rates in ([1e-3], [1e-3, 1e-3], [-1.0, 1e-3]):
        with pytest.raises(FdlabError, match="no grid"):
            check([Start("a", "a", 0)], rates)
    with pytest.raises(FdlabError, match="Two models"):
        check([Start("a b", "x", 0), Start("a-b", "y", 0)], [1e-3, 1e-2])
    with pytest.raises(FdlabError, match="judging"):
        trainability([start], tmp_path, overrides={**TINY, "data.test": ""})
    answer = CliRunner().invoke(app, ["trainability", start, "--rates", "fast,slow"])
    assert isinstance(answer.exception, FdlabError)
    assert "no numbers" in str(answer.exception)
