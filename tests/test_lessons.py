"""Every lesson runs, with small settings, and has the parts of a lesson."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "analyses"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_has_its_parts(lesson: Path) -> None:
    text = lesson.read_text(encoding="utf-8")
    assert "format_name: percent" in text
    assert f"({lesson.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    if not lesson.name.startswith("05"):  # the demonstration among them
        for part in ("Predict first", "## Break it", "## Exercise", "def check(", "## What this does not show"):
            assert part in text, part


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_runs(lesson: Path, tmp_path: Path) -> None:
    small = {"FDLAB_STORE": str(tmp_path / "store"), "FDLAB_LESSON_IMAGES": "32", "FDLAB_LESSON_STEPS": "20"}
    found = subprocess.run(
        [sys.executable, str(lesson)],
        cwd=tmp_path,
        env={**os.environ, **small},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    if lesson.name.startswith("05"):
        balanced = next(line for line in found.stdout.splitlines() if line.startswith("trace_balanced"))
        first, second = (float(part.split(":")[1].strip(" }")) for part in balanced.split("{")[1].split(","))
        assert second == pytest.approx(first, rel=1e-2)
    else:
        assert "Right" in found.stdout.splitlines()[-1]
