"""Coverage-guided fuzzing with atheris: ``python tests/fuzz/run.py MINUTES [TARGET]``, or ``make fuzz MINUTES=10``.

Each target runs for its share of the minutes in a process of its own. A fault (any exception that the reader does not
name, more than 10 s, much memory) leaves its input as ``tests/fuzz/found/TARGET-*``; inputs that reach new code are
kept in ``tests/fuzz/corpus/TARGET``, where the next run begins. Neither folder is part of the repository.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 10  # for one input


def fuzz(name: str, seconds: int) -> None:
    """One target, in this process; atheris ends it."""
    import atheris

    with atheris.instrument_imports(include=["fdlab.checkpoints", "fdlab.data", "tarfile", "pickletools", "zipfile"]):
        from targets import TARGETS
    corpus, found = HERE / "corpus" / name, HERE / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate(TARGETS[name].seeds(Path(seeds))):
            (corpus / f"seed-{number:03}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", "-rss_limit_mb=1500", "-max_len=60000"]
    options += [f"-artifact_prefix={found}/{name}-", "-print_final_stats=1", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name].run)
    atheris.Fuzz()


def main(minutes: float, only: str | None) -> int:
    """Every target in turn; the number of those with a fault."""
    names = [only] if only else ["pickle", "archive", "safetensors", "recognise", "tar"]
    share = str(max(int(60 * minutes / len(names)), 1))
    codes = {name: subprocess.run([sys.executable, __file__, "--one", name, share]).returncode for name in names}
    for name, code in codes.items():
        print(f"{name}: {'no fault' if code == 0 else f'a fault, its input is in {HERE}/found'}")
    return sum(code != 0 for code in codes.values())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.path.insert(0, str(HERE))
        fuzz(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(float(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
