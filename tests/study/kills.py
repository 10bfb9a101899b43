"""Kills every verb that writes at random moments, gives the command again, and compares with an unkilled one.

``python kills.py FOLDER KILLS [VERB ...]`` prints a line for each verb: kills that met a living process, and what
differs. Every command is a fork of a process that has imported everything, so that a start costs little.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUND = 4  # kills of one folder before its command may come to its end

MODEL = {"width": 16, "depth": 1, "heads": 2, "patch_size": 8}
FEW = {"run.batch": 8, "run.log_every": 1, "save.every": 2, "data.source": "digits#train[:96]"}
COMPARED = (".csv", ".svg", ".pdf", ".png", ".tex", ".safetensors", ".npz", ".toml", ".bib")


def settings(task: str, steps: int, **more: object) -> list[str]:
    named = {**FEW, "run.steps": steps, **{f"{task}.{key}": value for key, value in MODEL.items()}, **more}
    return [word for key, value in named.items() for word in ("--set", f"{key}={value}")]


def train(verb: str, recipe: str, task: str, steps: int, out: Path, *more: str) -> list[str]:
    return [verb, recipe, "-o", str(out), *settings(task, steps), *more]


def verbs(shared: Path) -> dict[str, Callable[[Path], list[str]]]:
    """Each verb's command for an output folder; ``shared`` holds what it reads."""
    teacher, report = shared / "teacher", shared / "report"
    images = ["--data", "digits#test", "--images", "12", "--quiet"]
    tuned = ["--set", "run.steps=12", "--set", "save.every=2", "--set", "run.log_every=1", "--set", "run.batch=8"]
    return {
        "pretrain": lambda out: train("pretrain", "digits/masked", "masked.model", 16, out, "--quiet"),
        "distill": lambda out: train(
            "distill", "digits/distill", "distill.student", 12, out, "--quiet", "--teacher", str(teacher)
        ),
        "finetune": lambda out: ["finetune", str(teacher), "-o", str(out), *tuned, "--quiet"],
        "sweep": lambda out: train(
            "sweep", "digits/masked", "masked.model", 3, out, "--over", "optim.lr=1e-3,2e-3", "--workers", "1",
            "--quiet",
        ),
        "diagnose": lambda out: ["diagnose", "attention", f"a={teacher}", *images, "--tolerance", "0", "-o", str(out)],
        "compare": lambda out: [
            "compare", f"a={teacher}", f"b=random:{teacher}", *images, "--probes", "attention", "-o", str(out),
        ],
        "report": lambda out: ["report", str(report), "-o", str(out), "--quiet"],
        "figures": lambda out: ["figures", "--from", str(report), "-o", str(out), "--quiet"],
        "export": lambda out: ["export", str(teacher), "--to", "safetensors", "-o", str(out / "x.safetensors")],
        "inspect": lambda out: ["inspect", str(teacher), "--report", str(out / "structure.json")],
    }  # fmt: skip


def start(words: list[str], store: Path, *, grouped: bool = False) -> int:
    """The command in a child."""
    child = os.fork()
    if child:
        return child
    if grouped:
        os.setpgid(0, 0)
    os.environ["FDLAB_STORE"] = str(store)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    if not os.environ.get("KILLS_LOUD"):
        os.dup2(quiet, 2)
    sys.argv = ["fdlab", *words]
    from fdlab.cli.app import main

    try:
        main()
    except SystemExit as error:
        os._exit(int(error.code or 0) if not isinstance(error.code, str) else 1)
    except BaseException:
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(words: list[str], store: Path) -> float:
    """Runs the command to its end; its seconds."""
    begin = time.monotonic()
    code = ended(start(words, store))
    assert code == 0, f"code {code}: fdlab {' '.join(words)}"
    return time.monotonic() - begin


def prepare(shared: Path) -> None:
    whole(train("pretrain", "digits/contrastive", "contrastive.model", 2, shared / "teacher", "--quiet"), shared / "s")
    report = shared / "report"
    data = ["--data", "digits#test", "--images", "12", "--tolerance", "0", "--quiet"]
    whole(["diagnose", "attention", f"a={shared / 'teacher'}", *data, "-o", str(report)], shared / "s")


def content(path: Path) -> object:
    """What must be equal: arrays by their values (a zip has times in it), all else by bytes."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: (arrays[name].dtype.str, arrays[name].tobytes()) for name in arrays.files}
    return path.read_bytes()


def log_of(path: Path) -> list[tuple[object, object]]:
    return [(line.get("step"), line.get("loss")) for line in map(json.loads, path.read_text().splitlines())]


def differences(one: Path, two: Path) -> list[str]:
    """Names of files that differ in what must be equal, that only one folder has, and drafts that were left."""
    files = [{p.relative_to(f).as_posix(): p for p in f.rglob("*") if p.is_file()} for f in (one, two)]
    left = [name for name in files[1] if name.endswith((".part", ".link", ".old")) or "/.fdlab" in name]
    lost = sorted(set(files[0]) ^ set(files[1]) - set(left))
    both = sorted(set(files[0]) & set(files[1]))
    other = [n for n in both if n.endswith(COMPARED) and content(files[0][n]) != content(files[1][n])]
    other += [n for n in both if n.endswith("metrics.jsonl") and log_of(files[0][n]) != log_of(files[1][n])]
    return [f"left: {n}" for n in left] + [f"only in one: {n}" for n in lost] + [f"differs: {n}" for n in other]


def torture(name: str, command: Callable[[Path], list[str]], folder: Path, kills: int, draw: random.Random) -> str:
    """Kills until ``kills`` have met a living process; every ``ROUND`` of them the command ends and is compared."""
    again, out, store = folder / "again", folder / "out", folder / "store"
    took = whole(command(out), store)
    shutil.move(out, folder / "unkilled")
    whole(command(out), folder / "store2")  # a second unkilled one: what differs here is no fault of a kill
    usual = differences(folder / "unkilled", out)
    shutil.move(out, again)
    met, found, number = 0, [], 0
    while met < kills:
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)
        for _ in range(min(ROUND, kills - met)):
            number += 1
            grouped = draw.random() < 0.5
            child = start(command(out), store, grouped=grouped)
            time.sleep(draw.uniform(0, took))
            sign = draw.choice([signal.SIGKILL, signal.SIGTERM])
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if grouped else os.kill)(child, sign)
            met += ended(child) in (-sign, 130, 143)
        try:
            whole(command(out), store)
        except AssertionError as error:
            found.append(str(error))
            continue
        found += [fault for fault in differences(folder / "unkilled", out) if fault not in usual]
        found += [f"left in the store: {p.name}" for p in store.rglob(".*") if not p.name.startswith(".lock")]
        if number > 6 * kills:
            return f"{name}: only {met} of {number} kills met a living process; {sorted(set(found)) or 'equal'}"
    return f"{name}: {met} kills, {sorted(set(found)) or 'equal'}" + (f" (also unkilled: {usual})" if usual else "")


def main(folder: Path, kills: int, only: list[str]) -> None:
    os.environ["FDLAB_STORE"] = str(folder / "s")
    import matplotlib.pyplot  # noqa: F401  (imported once, for every fork)
    import timm  # noqa: F401

    prepare(folder / "shared")
    for name, command in verbs(folder / "shared").items():
        if not only or name in only:
            print(torture(name, command, folder / name, kills, random.Random(name)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
