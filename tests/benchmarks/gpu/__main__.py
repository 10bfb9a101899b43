"""``python -m tests.benchmarks.gpu``: all that waits for a GPU, most wanted first, in at most eight minutes.

Writes ``gpu.md`` and ``gpu.csv`` into ``--out`` as it goes. The parts run one after the other in a second process; one
that fails, or takes longer than its bound, is a row of its own, and the next begins. ``--tiny`` runs every part on a
CPU at sizes that say nothing, to show that they run. ``--only NAME`` (repeatable) chooses parts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import queue
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from tests.benchmarks.gpu.rows import Row, heard, tell, write

# name: (module.function, seconds that it may take on a GPU)
PARTS = {
    "peaks": ("machine.peaks", 30),
    "distilling": ("training.distilling", 70),
    "busy": ("training.busy", 40),
    "attention": ("probes.attention", 80),
    "curvature": ("probes.curvature", 45),
    "small model": ("training.small_model", 60),
    "fine-tuning": ("training.fine_tuning", 40),
    "same numbers": ("probes.same_numbers", 20),
    "tests": ("machine.tests", 120),
    "features": ("probes.features", 40),
    "distilling, compiled": ("training.compiled_distilling", 120),
    "decoding": ("training.decoding", 60),
}
PACKAGES = ("torch", "timm", "captum", "loss_landscapes", "pandas", "seaborn", "sklearn", "typer", "tomli_w", "pytest")
BEGINS, ENDS = "part ", "done "


def work(names: list[str], tiny: bool) -> None:
    """The second process: these parts, one after the other."""
    from tests.benchmarks.gpu.sizes import FULL, TINY

    for name in names:
        print(BEGINS + name, flush=True)
        module, function = PARTS[name][0].split(".")
        try:
            part = getattr(importlib.import_module(f"tests.benchmarks.gpu.{module}"), function)
            part(TINY if tiny else FULL)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {str(error)[:300]} ({Path(place.filename).name}:{place.lineno})"
            tell(Row(name, "failed", None, "", "", why))
        print(ENDS + name, flush=True)


class Sitting:
    """The first process: starts the second, bounds it, and writes the table."""

    def __init__(self, out: Path, minutes: float, command: list[str], said: str = "") -> None:
        self.out, self.command, self.heading = out, command, said
        self.until = time.monotonic() + 60 * minutes
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        write(self.rows, self.out, self.heading)

    def run(self, names: list[str]) -> None:
        """These parts; those for which no time is left are rows that say so."""
        left = list(names)
        while left and time.monotonic() < self.until:
            left = self._one_process(left)
        for name in left:
            self.add(Row(name, "not begun", None, "", "", "the time was used up"))

    def _one_process(self, names: list[str]) -> list[str]:
        """Parts that are still to do after a process ended or was ended."""
        chosen = [word for name in names for word in ("--only", name)]
        process = subprocess.Popen([*self.command, *chosen], stdout=subprocess.PIPE, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_listen, args=(process, lines), daemon=True).start()
        current, begun, left = names[0], time.monotonic(), list(names)
        while True:
            end = min(begun + PARTS[current][1], self.until)
            try:
                line = lines.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                process.kill()
                self.add(Row(current, "ended", None, "", "", f"took longer than {time.monotonic() - begun:.0f} s"))
                return left[1:]
            if line is None:
                if left:
                    self.add(Row(current, "failed", None, "", "", f"its process ended with {process.wait()}"))
                return left[1:]
            if line.startswith(BEGINS):
                current, begun = line.removeprefix(BEGINS), time.monotonic()
            elif line.startswith(ENDS):
                left.remove(line.removeprefix(ENDS))
                self.add(Row(current, "seconds of this part", time.monotonic() - begun, "s"))
            elif (row := heard(line)) is not None:
                self.add(row)


def _listen(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def heading(tiny: bool) -> str:
    """What was measured on: device, versions, and packages that are not there."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    missing = f" Not installed: {', '.join(absent)}." if absent else ""
    if "torch" in absent:
        return "Nothing can be measured: torch is not installed." + missing
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    form = " Tiny sizes, which show only that every part runs." if tiny else ""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return f"`python -m tests.benchmarks.gpu` on {device}; {versions}.{missing}{form}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder of gpu.md and gpu.csv")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the whole sitting")
    parser.add_argument("--tiny", action="store_true", help="every part on a CPU, at sizes that say nothing")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part (repeatable)")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    own = parser.parse_args()
    names = own.only or list(PARTS)
    if own.work:
        work(names, own.tiny)
    else:
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--work", *(["--tiny"] if own.tiny else [])]
        Sitting(own.out, own.minutes, command, heading(own.tiny)).run(names)


if __name__ == "__main__":
    main()
