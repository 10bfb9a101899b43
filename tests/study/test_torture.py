"""20 kills at random moments change no bit of the student, with 0 and with 2 workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_moments_change_nothing(tmp_path: Path, workers: int, ranks: int) -> None:
    script = Path(__file__).with_name("torture.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [sys.executable, str(script), str(tmp_path), "20", str(workers), str(ranks)]
    found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=480)
    assert found.stdout.strip() == "equal", found.stderr[-2000:]
