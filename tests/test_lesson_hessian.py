"""The lesson on Hessian spectra runs, with small settings."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

LESSON = Path(__file__).resolve().parents[1] / "analyses" / "05_hessian_spectra.py"


@pytest.mark.slow
def test_the_lesson_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FDLAB_STORE", str(tmp_path))
    monkeypatch.setenv("FDLAB_LESSON_IMAGES", "16")
    runpy.run_path(str(LESSON), run_name="__main__")
    said = capsys.readouterr().out
    balanced = next(line for line in said.splitlines() if line.startswith("trace_balanced"))
    first, second = (float(part.split(":")[1].strip(" }")) for part in balanced.split("{")[1].split(","))
    assert second == pytest.approx(first, rel=1e-2)
