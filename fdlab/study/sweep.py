"""``fdlab sweep``: one recipe over a small grid of settings and seeds, into one table.

Each point is a run folder of its own, so a sweep is stopped and continued like a training.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import writable_folder, write_json
from fdlab.records.means import means_over_seeds
from fdlab.records.run_folder import RunFolder, own_folder, slug
from fdlab.records.store import Record
from fdlab.records.table import frame, join, write_table
from fdlab.study import stage
from fdlab.study.parallel import Job, run_jobs


@dataclass(frozen=True)
class Point:
    """One point of the grid: its settings, and the name that its runs and rows carry."""

    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The name in the table.

        >>> Point({"optim.lr": 1e-3, "masked.loss": "l1"}).label
        'optim.lr=0.001, masked.loss=l1'
        """
        return ", ".join(f"{key}={_shown(value)}" for key, value in self.settings.items()) or "as the recipe"

    @property
    def x(self) -> float | None:
        """The setting's value where the grid has one axis of numbers."""
        values = list(self.settings.values())
        single = len(values) == 1 and isinstance(values[0], int | float) and not isinstance(values[0], bool)
        return float(values[0]) if single else None

    def run(self, seed: int) -> str:
        """The name of the run's folder."""
        text = self.label.replace(", ", "_")
        lossless = slug(text) == text and len(text) < 200
        return f"{text if lossless else own_folder(self.label)}_seed-{seed}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_over(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each setting; a value that is no TOML is a string.

    >>> parse_over(["optim.lr=1e-3,3e-3", "masked.loss=mse,l1"])
    {'optim.lr': [0.001, 0.003], 'masked.loss': ['mse', 'l1']}

    Raises:
        FdlabError: code 2, no ``key=values``, a value or a key twice.
    """
    axes: dict[str, list[Any]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        try:
            values = tomllib.loads(f"v = [{text}]")["v"]
        except tomllib.TOMLDecodeError:
            values = [_value(part.strip()) for part in text.split(",") if part.strip()]
        if not (equals and key and values):
            raise FdlabError(f"--over {pair!r} names no values.", fix="Write --over optim.lr=1e-3,3e-3.", code=USAGE)
        if key in axes or len({repr(value) for value in values}) < len(values):
            fix = "Name each setting and value once."
            raise FdlabError(f"--over {pair!r} says something twice.", fix=fix, code=USAGE)
        axes[key] = values
    return axes


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Every combination, the last setting varying fastest."""
    return [Point(dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def sweep(
    recipe: str,
    over: Mapping[str, Sequence[Any]],
    out: str | Path,
    *,
    seeds: int = 1,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    config: str | None = None,
    workers: int = 2,
    part: tuple[int, int] = (1, 1),
    quiet: bool = True,
) -> pd.DataFrame:
    """Trains what is missing of the grid; returns and writes ``table.csv``.

    The table has a row for each run and metric, then, with an empty seed, the means over seeds with t-intervals
    (``n`` = seeds). A run that diverged is kept, counted, and has a row ``diverged`` = 1 instead of an accuracy.

    Args:
        over: values by dotted setting. seeds: ``run.seed`` = seed, seed + 1, ...
        part: (i, n): only every n-th run beginning with the i-th, for machines that share a sweep.

    Raises:
        FdlabError: code 2, a point whose settings are wrong (before anything is trained).
    """
    if seeds < 1 or not 1 <= part[0] <= part[1]:
        fix = "Give at least one seed, and a part from 1/N to N/N."
        raise FdlabError(f"{seeds} seeds, part {part[0]}/{part[1]}.", fix=fix, code=USAGE)
    folder = writable_folder(out)
    runs = [(point, number) for point in grid(over) for number in range(seed, seed + seeds)]
    jobs: dict[str, Job] = {}
    for point, number in runs[part[0] - 1 :: part[1]]:
        settings = {**(overrides or {}), **point.settings, "run.seed": number}
        run = point.run(number)
        jobs[run] = stage.job(recipe, str(folder / run), settings, config=config, label=point.label)
    write_json(folder / "sweep.json", {"recipe": recipe, "over": dict(over), "seeds": seeds, "seed": seed})
    run_jobs(jobs, workers=workers, label="sweep", quiet=quiet)
    table = collect(folder, runs)
    write_table(folder / "table.csv", table)
    return table


def collect(folder: Path, runs: Sequence[tuple[Point, int]]) -> pd.DataFrame:
    """The table of what is finished: the runs' own rows, and means over seeds."""
    parts = []
    for point, number in runs:
        run = RunFolder(folder / point.run(number))
        common = {"model": point.label, "seed": number, "probe": "training", "x": point.x}
        if run.finished:
            rows = Record.load(run.path / "record").table
            parts.append(rows.assign(model=point.label, x=np.nan if point.x is None else point.x))
        if run.finished or stage.failure(str(run.path)):
            parts.append(frame([{**common, "metric": "diverged", "value": float(not run.finished)}]))
    table = join(parts)
    return join([table, means_over_seeds(table[table["metric"] != "learning_rate"], fewest=1)])
