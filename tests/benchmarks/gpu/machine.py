"""What the device can do at most, and whether the tests that need it pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from fdlab.engine.hardware import peak
from tests.benchmarks.gpu.rows import Row, tell
from tests.benchmarks.gpu.sizes import Sizes, seconds

HOME = Path(__file__).resolve().parents[3]


def peaks(sizes: Sizes) -> None:
    """Matrix products, copies and exponentials."""
    expected = {"bfloat16": "790", "float32": "50"}
    for low in (True, False):
        name = "bfloat16" if low else "float32"
        rate = peak(sizes.device, low) / 1e12
        tell(Row("peaks", f"matrix product, {name}", rate, "TFLOP/s", expected[name] if sizes.cuda else ""))
    if sizes.cuda:
        torch.set_float32_matmul_precision("high")
        peak.cache_clear()
        tell(Row("peaks", "matrix product, TF32", peak(sizes.device, False) / 1e12, "TFLOP/s", "400"))
        torch.set_float32_matmul_precision("highest")
        peak.cache_clear()
    numbers = torch.rand(2**29 if sizes.cuda else 2**20, device=sizes.device)
    out = torch.empty_like(numbers)
    copied = 2 * numbers.nbytes / seconds(sizes, lambda: out.copy_(numbers))
    tell(Row("peaks", "copying within memory", copied / 1e12, "TB/s", "4.3" if sizes.cuda else ""))
    taken = seconds(sizes, lambda: torch.exp(numbers, out=out))
    tell(Row("peaks", "exponentials", numbers.numel() / taken / 1e12, "10^12/s", "0.5" if sizes.cuda else ""))


def tests(sizes: Sizes) -> None:
    """``tests/engine/test_cuda.py``: nothing waits for the device, runs are equal and continue bitwise."""
    command = [sys.executable, "-m", "pytest", "tests/engine/test_cuda.py", "-o", "addopts=", "-rf"]
    done = subprocess.run(
        command, cwd=HOME, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HOME)}, check=False
    )
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    for name in ("passed", "failed", "error", "skipped"):
        tell(Row("tests", name, counts.get(name, 0), "tests", "0" if name != "passed" else ""))
    for line in re.findall(r"^FAILED (.*)", done.stdout, re.MULTILINE):
        tell(Row("tests", "fails", None, "", "", line[:300]))
