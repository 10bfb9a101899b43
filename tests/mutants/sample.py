"""Small changes drawn by chance: cosmic-ray's mutants of one or two files a room, and how many the room's tests notice.

    python tests/mutants/sample.py [--only ROOM] [--each 8] [--seed 0]

``sample.toml`` says which files and tests. Of each room ``--each`` places in the code are drawn with a fixed seed, and
of each place one of the operator's changes (another comparison, sign, number, a missing ``not``). Left out is
``|``, which stands in annotations that nothing evaluates. A share under 100 % is no fault in itself: some changes mean
the same. What lived is printed as a difference, to be read. Needs the extra ``mutants``.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import tomli_w
from cosmic_ray.work_db import WorkDB, use_db
from run import AT_A_TIME, PATIENCE, ROOT, copies, surroundings

SAME = "core/ReplaceBinaryOperator_BitOr_"
COMMAND = [sys.executable, "-m", "cosmic_ray.cli"]


def drawn(items: tuple[Any, ...], count: int, seed: int) -> list[Any]:
    """``count`` work items at different places in the code, each one of its place's changes."""
    places: dict[tuple[str, Any], list[Any]] = {}
    for item in sorted(items, key=lambda item: (item.mutations[0].operator_name, item.mutations[0].occurrence)):
        change = item.mutations[0]
        if not change.operator_name.startswith(SAME):
            places.setdefault((str(change.module_path), change.start_pos), []).append(item)
    chance = random.Random(seed)
    return [chance.choice(places[place]) for place in chance.sample(sorted(places), min(count, len(places)))]


def tried(room: str, entry: dict[str, list[str]], count: int, seed: int, free: Queue[Path]) -> list[tuple[str, str]]:
    """(what came of it, the difference) of each drawn change of a room."""
    copy = free.get()
    try:
        session, config = copy / f"{room}.sqlite", copy / f"{room}.cosmic.toml"
        test = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *entry["tests"]]
        settings: dict[str, Any] = {"module-path": entry["files"], "timeout": PATIENCE, "excluded-modules": []}
        settings |= {"test-command": shlex.join(test), "distributor": {"name": "local"}}
        config.write_text(tomli_w.dumps({"cosmic-ray": settings}), encoding="utf-8")
        given: dict[str, Any] = {"cwd": copy, "env": surroundings(copy, ROOT), "capture_output": True, "text": True}
        sound = subprocess.run(test, **given)
        if sound.returncode:
            raise SystemExit(f"{room}: its tests fail without a change\n{sound.stdout[-2000:]}")
        subprocess.run([*COMMAND, "init", config, session], check=True, **given)
        with use_db(str(session), WorkDB.Mode.open) as work:
            chosen = drawn(work.work_items, count, seed)
            work.clear()
            work.add_work_items(chosen)
        subprocess.run([*COMMAND, "exec", config, session], check=True, **given)
        with use_db(str(session), WorkDB.Mode.open) as work:
            return [(str(result.test_outcome.value), result.diff or "") for _, result in work.results]
    finally:
        free.put(copy)


def main() -> int:
    """Tries the sample of each room and prints its share."""
    parser = argparse.ArgumentParser(description="Changes drawn by chance, and whether the tests notice them.")
    parser.add_argument("--only", action="append", default=[], metavar="ROOM")
    parser.add_argument("--each", type=int, default=8, help="changes a room")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rooms = tomllib.loads(Path(__file__).with_name("sample.toml").read_text(encoding="utf-8"))
    rooms = {room: entry for room, entry in rooms.items() if not given.only or room in given.only}
    every, living = 0, []
    with copies(ROOT, AT_A_TIME) as free, ThreadPoolExecutor(AT_A_TIME) as pool:
        results = pool.map(lambda room: tried(room, rooms[room], given.each, given.seed, free), rooms)
        for room, outcomes in zip(rooms, results, strict=True):
            lived = [difference for outcome, difference in outcomes if outcome == "survived"]
            print(f"{room:14}{len(outcomes) - len(lived):4} of {len(outcomes)} noticed", flush=True)
            every, living = every + len(outcomes), living + lived
    print("\n".join(["", *living]))
    print(f"noticed {every - len(living)} of {every} ({(every - len(living)) / max(every, 1):.0%})")
    return 0


if __name__ == "__main__":
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.exit(main())
