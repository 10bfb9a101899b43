"""Kills one run at random moments, again and again, and compares its student with an uninterrupted one.

``python torture.py FOLDER KILLS WORKERS RANKS`` prints ``equal`` or what differs. Every start is a fork of a
process that has imported everything, so that a start costs little and 20 kills fit into a test.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

STEPS, EVERY = 126, 3


def fork(act: Callable[[], object], **environment: str) -> int:
    """Starts ``act`` in a child; its exit code is 0 where it came to its end."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    try:
        act()
    except BaseException:
        os._exit(1)
    os._exit(0)


def start(out: Path, teacher: Path, workers: int, ranks: int) -> list[int]:
    """One process a rank."""
    options = {
        "distill.teacher": str(teacher), "run.steps": STEPS, "run.batch": 8, "run.log_every": 2, "save.every": EVERY,
        "run.workers": workers, "distill.mask": 0.5, "distill.mask_loss": "all", "distill.student.depth": 2,
    }  # fmt: skip
    planned = plan("digits/distill", options=options)
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = str(asked.getsockname()[1])
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "FDLAB_RANK_TIMEOUT": "30"}
    return [
        fork(lambda: run(planned, out, quiet=True), **({"RANK": str(rank), **common} if ranks > 1 else {}))
        for rank in range(ranks)
    ]


def done(out: Path) -> int:
    log = RunFolder(out).read_log()
    return int(log[-1]["step"]) if log else 0


def ended(children: list[int]) -> bool:
    return any(os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) for child in children)


def leave(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def torture(folder: Path, kills: int, workers: int, ranks: int) -> str:
    teacher, whole, cut = folder / "teacher", folder / "whole", folder / "cut"
    small = {"run.steps": 2, "run.batch": 8, "contrastive.model.depth": 2}
    assert leave([fork(lambda: run(plan("digits/contrastive", options=small), teacher, quiet=True))]) == [0]
    assert leave(start(whole, teacher, 0, ranks)) == [0] * ranks
    chance, killed = random.Random(f"{workers}/{ranks}"), 0
    for number in range(kills):
        children = start(cut, teacher, workers, ranks)
        target = (number + 1) * (STEPS - 10) // (kills + 1)
        early = chance.random() < 0.25  # while it still starts
        moment = time.monotonic() + (chance.uniform(0, 0.4) if early else 60)
        while time.monotonic() < moment and done(cut) < target and not ended(children):
            time.sleep(0.002)
        time.sleep(0 if early else chance.uniform(0, 0.03))
        for child in children if chance.random() < 0.5 else chance.sample(children, 1):
            os.kill(child, signal.SIGKILL)
        killed += any(code == -signal.SIGKILL for code in leave(children))
    if killed < kills:
        return f"only {killed} of {kills} kills met a living process"
    if leave(start(cut, teacher, workers, ranks)) != [0] * ranks:
        return "the last start failed"
    first, second = (load_file(path / "student.safetensors") for path in (whole, cut))
    different = [key for key in first if not first[key].equal(second[key])]
    losses = [[(x["step"], x.get("loss")) for x in RunFolder(path).read_log()] for path in (whole, cut)]
    return f"different: {different}" if different else ("equal" if losses[0] == losses[1] else "other losses")


if __name__ == "__main__":
    print(torture(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:])))
