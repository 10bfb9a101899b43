"""A stage's question is answered once; another question, or another version, is answered anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdlab.records.store import Record
from fdlab.records.table import frame
from fdlab.study import stage


def test_a_question_is_answered_once_and_another_one_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def answer() -> Record:
        calls.append(1)
        return Record(frame([{"model": "a", "metric": "nmi", "value": float(len(calls))}]))

    question = {"weights": "1da7", "parts": [{"metrics": ("knn", "linear_probe")}], "seed": 0}
    for _ in range(2):
        stage.once(tmp_path / "record", question, answer)
    assert len(calls) == 1  # a tuple comes back from the disk as a list: still the same question
    manifest = Record.load(tmp_path / "record").manifest
    assert manifest["stage_question"]["seed"] == 0
    assert manifest["seconds"] >= 0
    stage.once(tmp_path / "record", question | {"weights": "dfb9"}, answer)
    assert len(calls) == 2
    monkeypatch.setattr(stage, "__version__", "another")
    stage.once(tmp_path / "record", question | {"weights": "dfb9"}, answer)
    assert Record.load(tmp_path / "record").table["value"].tolist() == [3.0]
