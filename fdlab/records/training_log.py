"""A run's metrics.jsonl as series: one list of steps and values for every number that it logs."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdlab.errors import USAGE, FdlabError
from fdlab.records.run_folder import RunFolder

BARS = "▁▂▃▄▅▆▇█"


def runs_in(folder: Path | str) -> list[dict[str, Any]]:
    """The runs of a folder: ``run``, ``state``, ``step`` and ``loss`` of the last line that has one.

    Raises:
        FdlabError: code 2, there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FdlabError(f"There is no folder {folder}.", fix="Name the folder that holds the runs.", code=USAGE)
    runs = []
    for path in sorted(p.parent for p in folder.glob("*/recipe.toml")):
        run = RunFolder(path)
        last: dict[str, Any] = next((line for line in reversed(run.read_log()) if line.get("loss") is not None), {})
        runs.append({"run": str(path), "state": _state(run), "step": last.get("step", 0), "loss": last.get("loss")})
    return runs


def read_run(path: Path | str) -> dict[str, Any]:
    """One run: ``state``, ``step``, ``steps`` (None while only epochs are known), ``epochs``, ``series``.

    ``series``: name -> (steps, values), as logged. Values that are not finite or no numbers are left out.

    Raises:
        FdlabError: code 2, this is no run's folder, or nothing was logged yet.
    """
    run = RunFolder(path)
    if not run.recipe.is_file():
        fix = "Name the folder of one training: fdlab runs lists them."
        raise FdlabError(f"{path} is no run.", "It has no recipe.toml.", fix, USAGE)
    log = run.read_log()
    if not log:
        raise FdlabError(f"{path} has logged nothing yet.", fix="Wait for its first log line, or start it.", code=USAGE)
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in log:
        for name, value in line.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(int(line.get("step", 0)))
                values.append(float(value))
    length = tomllib.loads(run.recipe.read_text(encoding="utf-8")).get("run", {})
    return {
        "run": str(path),
        "state": _state(run),
        "step": int(log[-1].get("step", 0)),
        "steps": run.facts().get("steps") or length.get("steps") or None,
        "epochs": length.get("epochs", 0),
        "series": series,
    }


def _state(run: RunFolder) -> str:
    return "finished" if run.finished else "not finished"


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as a line of bars, averaged to at most ``width``; a constant is a flat line in the middle.

    >>> sparkline([0, 1, 2, 3, 2, 1])
    '▁▃▆█▆▃'
    """
    if not values:
        return ""
    groups = min(width, len(values))
    edges = [group * len(values) // groups for group in range(groups + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    if not high > low:
        return BARS[3] * groups
    return "".join(BARS[min(7, int(8 * (value - low) / (high - low)))] for value in means)
