"""Answers whose accuracy, confusions, calibration and mistakes are known, and classes matched by their names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.measures.calibration import calibration
from fdlab.randomness import stream
from fdlab.study.accuracy import Answers, answers
from fdlab.study.classifier import load_classifier
from tests.study.test_classifier import colours, tuned  # noqa: F401


def test_rows_of_known_answers() -> None:
    shares = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]])
    said = Answers(("a", "b", "c"), np.array([0, 2, 3, 4]), np.array([0, 0, 1, 1]), shares)
    rows = {(row["metric"], row.get("objective", "")): row for row in said.rows()}
    assert rows["accuracy", ""]["value"] == 0.75 and rows["accuracy", ""]["n"] == 4
    assert rows["class_accuracy", "a"]["value"] == 1.0 and rows["class_accuracy", "b"]["value"] == 0.5
    assert rows["overconfidence", ""]["value"] == pytest.approx((0.9 + 0.6 + 0.8 + 0.9 - 3) / 4)
    # one image a bin: |share - right| of each
    assert rows["calibration_error", ""]["value"] == pytest.approx((0.1 + 0.4 + 0.8 + 0.1) / 4)
    assert said.confusion().to_dict() == {"a": {"a": 2, "b": 1}, "b": {"a": 0, "b": 1}}
    wrong = said.mistakes()
    assert wrong.to_dict("records") == [{"position": 3, "label": "b", "named": "a", "share": 0.8}]


def test_a_calibrated_classifier_lies_in_its_range_and_a_sure_one_above_it() -> None:
    inside, sure = 0, 0
    for trial in range(60):
        draw = stream(trial, "calibrated")
        shares = draw.uniform(0.4, 1.0, 200)
        right = draw.random(200) < shares
        found = calibration(shares, right, trial)
        inside += found.chance.low <= found.error <= found.chance.high
        surer = calibration(np.minimum(shares + 0.3, 1.0), right, trial)
        sure += surer.error > surer.chance.high and surer.gap.low > 0
        assert found.gap.low < found.gap.high
    assert inside >= 52 and sure == 60


def test_classes_are_matched_by_name(tuned: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    run, _ = tuned
    two = colours(tmp_path / "two", count=6)
    for file in (two / "blue").iterdir():
        file.unlink()
    (two / "blue").rmdir()  # green is label 0 of these images and output 1 of the classifier
    said = answers(load_classifier(run), open_data(str(two)))
    assert said.right.mean() == 1.0
    assert set(said.confusion().columns) == {"green", "red"}
    (two / "green").rename(two / "gold")
    with pytest.raises(FdlabError, match="does not know the class 'gold'") as caught:
        answers(load_classifier(run), open_data(str(two)))
    assert caught.value.code == 2


def test_the_command_writes_tables_and_pictures(tuned: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    run, images = tuned
    done = CliRunner().invoke(
        app, ["evaluate", "classifier", f"mine={run}", "--data", str(images), "-o", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert "mine: accuracy 100.0 %" in done.output and "n = 36" in done.output
    assert (tmp_path / "mine-confusions.png").stat().st_size > 1000
    counts = pd.read_csv(tmp_path / "mine-confusions.csv", index_col=0)
    assert np.trace(counts.to_numpy()) == 36
