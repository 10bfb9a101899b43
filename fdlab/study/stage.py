"""One stage of a longer study, as a job: a training that is continued, or a question whose answer is kept.

A training that diverges is noted beside its run and does not stop the others.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdlab.errors import Diverged, FdlabError
from fdlab.records.atomic import write_json
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.study.parallel import Job, report
from fdlab.version import __version__


def job(
    recipe: str,
    run: str,
    overrides: Mapping[str, Any],
    *,
    label: str,
    family: str = "",
    config: str | None = None,
    needs: Sequence[str] = (),
    after: Sequence[str] = (),
    cost: int = 0,
) -> Job:
    """The training of ``recipe`` into the folder ``run``.

    Args:
        needs: names of the jobs before it.
        after: the folders of runs without whose result it cannot begin.
        cost: its work, in any unit that is the same for all jobs; 0 stands for its number of steps.

    Raises:
        FdlabError: code 2, the settings are wrong (raised before anything is trained).
    """
    from fdlab.study.training import plan

    planned = plan(recipe, overrides=overrides, config=config)
    cost = cost or max(planned.recipe.run.steps, 1)
    keywords = {"recipe": recipe, "config": config, "overrides": dict(overrides), "run": run, "label": label}
    return Job(train, {**keywords, "family": family, "after": tuple(after), "cost": cost}, tuple(needs), cost)


def train(
    recipe: str,
    config: str | None,
    overrides: Mapping[str, Any],
    run: str,
    label: str,
    family: str,
    after: Sequence[str],
    cost: int,
) -> dict[str, Any]:
    """Runs or continues one training in a worker; returns run.json, or an empty dict where there is no result.

    Where a run of ``after`` has no result, nothing is trained and nothing is noted, so that a later call tries again.
    """
    from fdlab.study import training

    folder = RunFolder(run)
    if not failure(run, after):
        planned = training.plan(recipe, overrides=overrides, config=config)
        share, done = cost / max(planned.recipe.run.steps, 1), [0]

        def count(step: int) -> None:
            if step % 10 == 0:
                report(round(share * step) - round(share * done[0]))
                done[0] = step

        try:
            training.run(planned, run, on_step=[count], label=label, family=family, quiet=True)
        except Diverged as error:
            write_json(folder.path / "failed.json", {"why": error.what})
        cost -= round(share * done[0])
    report(max(cost, 0))
    return folder.facts()


def failure(run: str, after: Sequence[str] = ()) -> str:
    """Why a run has no result: it diverged, or a run that it needs did. Empty if it has one or was never started.

    A run that diverged is tried again once its folder is deleted.
    """
    for needed in after:
        if why := failure(needed):
            return f"the run it begins with has no result: {why}"
    path = RunFolder(run.removeprefix("random:")).path / "failed.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["why"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError):
        return f"{path} is damaged"


def digest(run: str) -> str:
    """The sha256 of a run's result, so that a model trained again is measured again; empty if there is no result."""
    path = RunFolder(run).result
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def once(record: str | Path, question: Mapping[str, Any], answer: Callable[[], Record]) -> None:
    """Calls ``answer`` and saves what it returns as ``record``, unless the record answers this very question already.

    The question is kept in the record's manifest, with the version of fdlab and the seconds that the answer took.
    """
    asked = {**question, "version": __version__}
    if not answered(record, asked):
        began = time.monotonic()
        result = answer()
        result.manifest |= {"stage_question": asked, "seconds": round(time.monotonic() - began, 3)}
        result.save(record)


def answered(record: str | Path, question: Mapping[str, Any]) -> bool:
    """Whether a stage's record exists and answers this very question."""
    try:
        known = Record.load(record).manifest.get("stage_question")
    except FdlabError:
        return False
    return bool(known == json.loads(json.dumps(question)))
