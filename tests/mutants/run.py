"""Puts known faults into a copy of the tree, one at a time, and asks whether the named test notices.

    python tests/mutants/run.py [--only ROOM]

The faults stand in ``tests/mutants/ROOM.toml``. Each is a text replacement that changes what the code means (a wrong
axis, swapped roles, off by one block) and the test that must fail for it:

    [[fault]]
    says = "the last half of the blocks begins one block early"
    file = "fdlab/compare/evidence.py"
    find = "text that stands once in the file"
    put = "what replaces it"
    test = "tests/compare/test_evidence.py::test_name"

A fault is *noticed* (its test fails), *lives* (its test passes), or is *stale*: the text no longer stands once in
the file, or the test does not pass without the fault. Exit code 1 when a fault is stale, when under 95 % are noticed,
or when the whole list holds fewer than 40.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[2]
CHANGED = ("fdlab", "tests")  # copied; whatever else lies in the tree is linked
ENTRIES = ("says", "file", "find", "put", "test")
SAMPLE = "sample.toml"  # of sample.py, no list of faults
LEAST_FAULTS, LEAST_SHARE = 40, 0.95
AT_A_TIME, PATIENCE = 2, 300.0  # processes, seconds a test may take


@dataclass(frozen=True)
class Fault:
    """One replacement and the test that must notice it."""

    room: str
    says: str
    file: str
    find: str
    put: str
    test: str


@dataclass(frozen=True)
class Outcome:
    """What came of a fault: ``state`` is noticed, lived or stale; ``why`` explains a stale one."""

    fault: Fault
    state: str
    seconds: float = 0.0
    why: str = ""


def read_faults(root: Path, rooms: list[str]) -> list[Fault]:
    """The faults of these rooms (all rooms where none is named), in the order of the files."""
    folder = root / "tests" / "mutants"
    every = sorted(path for path in folder.glob("*.toml") if path.name != SAMPLE)
    files = [folder / f"{room}.toml" for room in rooms] if rooms else every
    faults = []
    for path in files:
        for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["fault"], 1):
            if set(entry) != set(ENTRIES):
                raise SystemExit(f"{path}, fault {number}: has {sorted(entry)}, needs {sorted(ENTRIES)}")
            faults.append(Fault(path.stem, **entry))
    return faults


def broken(text: str, fault: Fault) -> str:
    """The file's text with the fault in it. Raises ValueError when the fault is stale."""
    times = text.count(fault.find)
    if times != 1:
        raise ValueError(f"the text stands {times} times in {fault.file}")
    changed = text.replace(fault.find, fault.put)
    if changed == text:
        raise ValueError("the replacement changes nothing")
    try:
        ast.parse(changed)
    except SyntaxError as error:  # any test would notice that, so it says nothing about this one
        raise ValueError(f"the replacement is not Python: {error.msg}") from None
    return changed


@contextmanager
def copies(root: Path, count: int) -> Iterator[Queue[Path]]:
    """Copies of the tree, each used by one test at a time."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        free: Queue[Path] = Queue()
        for number in range(count):
            copy = Path(folder) / str(number)
            copy.mkdir()
            for item in root.iterdir():
                if item.name in CHANGED:
                    shutil.copytree(item, copy / item.name, ignore=shutil.ignore_patterns("__pycache__"))
                elif not item.name.startswith("."):
                    (copy / item.name).symlink_to(item)
            # By content: a fault of the same length within a second would pass for the compiled file it replaces.
            compileall.compile_dir(
                copy / CHANGED[0], quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
            )
            free.put(copy)
        yield free


def surroundings(copy: Path, root: Path) -> dict[str, str]:
    """The environment in which the copy's own fdlab is imported."""
    return os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "FDLAB_SHARED": os.environ.get("FDLAB_SHARED", str(root.parent / "shared")),
    }


def passes(copy: Path, test: str, root: Path) -> tuple[str, float]:
    """Runs a test in a copy: ``passed``, ``failed``, ``hung`` or ``did not run`` (skipped, absent), and its seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", test]
    before = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=surroundings(copy, root),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return "hung", time.perf_counter() - before
    seconds = time.perf_counter() - before
    if done.returncode == 0:
        return ("passed" if re.search(r"\b\d+ passed", done.stdout) else "did not run"), seconds
    return ("failed" if done.returncode in (1, 2) else "did not run"), seconds


def tried(fault: Fault, sound: dict[str, str], free: Queue[Path], root: Path) -> Outcome:
    """Puts one fault into a copy and runs its test."""
    if sound[fault.test] != "passed":
        return Outcome(fault, "stale", why=f"without the fault its test {sound[fault.test]}")
    copy = free.get()
    path = copy / fault.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(broken(text, fault), encoding="utf-8")
        result, seconds = passes(copy, fault.test, root)
    except ValueError as error:
        return Outcome(fault, "stale", why=str(error))
    finally:
        if text:
            path.write_text(text, encoding="utf-8")
        free.put(copy)
    return Outcome(fault, "lived" if result == "passed" else "noticed", seconds)


def try_all(faults: list[Fault], root: Path = ROOT) -> list[Outcome]:
    """First every named test without a fault, then every fault; prints each outcome as it comes."""
    outcomes = []
    with copies(root, AT_A_TIME) as free, ThreadPoolExecutor(AT_A_TIME) as pool:

        def without_fault(test: str) -> str:
            copy = free.get()
            try:
                return passes(copy, test, root)[0]
            finally:
                free.put(copy)

        tests = sorted({fault.test for fault in faults})
        print(f"{len(tests)} tests without a fault, then {len(faults)} faults", flush=True)
        sound = dict(zip(tests, pool.map(without_fault, tests), strict=True))
        for outcome in pool.map(lambda fault: tried(fault, sound, free, root), faults):
            fault = outcome.fault
            print(f"{outcome.state:8}{outcome.seconds:6.1f} s  {fault.room:14}{fault.says}", flush=True)
            outcomes.append(outcome)
    return outcomes


def summary(outcomes: list[Outcome], least: int) -> tuple[str, bool]:
    """The closing lines, and whether the list is as good as it must be."""
    noticed = sum(outcome.state == "noticed" for outcome in outcomes)
    lines = [""]
    for outcome in outcomes:
        if outcome.state != "noticed":
            fault = outcome.fault
            lines.append(f"{outcome.state}: {fault.says} ({fault.file}, {fault.test}) {outcome.why}".rstrip())
    share = noticed / len(outcomes) if outcomes else 0.0
    lines.append(f"noticed {noticed} of {len(outcomes)} ({share:.1%}; at least {LEAST_SHARE:.0%})")
    if len(outcomes) < least:
        lines.append(f"the list holds {len(outcomes)} faults, at least {least} are wanted")
    good = share >= LEAST_SHARE and len(outcomes) >= least and not any(o.state == "stale" for o in outcomes)
    return "\n".join(lines), good


def main() -> int:
    """Reads the arguments and tries the faults."""
    parser = argparse.ArgumentParser(description="Known faults, and whether the tests notice them.")
    parser.add_argument("--only", action="append", default=[], metavar="ROOM", help="the faults of this room alone")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that is copied")
    given = parser.parse_args()
    outcomes = try_all(read_faults(given.root, given.only), given.root)
    text, good = summary(outcomes, 1 if given.only else LEAST_FAULTS)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
