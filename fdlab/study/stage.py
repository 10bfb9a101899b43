"""One training as a job of many: it is continued, tells how far it is, and a divergence is noted, not raised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdlab.errors import FdlabError
from fdlab.records.atomic import write_json
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.study.parallel import Job, report

FAILED = 1  # the exit code of a training that diverged; settings that are wrong have another one


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
        needs: names of the jobs before it. after: the folders of runs without which it cannot begin.
        cost: its work, in any unit that is the same for all jobs; 0: its steps.

    Raises:
        FdlabError: code 2, settings that are wrong (before anything is trained).
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
    """Runs or continues one training in a worker; returns run.json, or an empty dict where there is no result."""
    from fdlab.study import training

    folder, lost = RunFolder(run), [name for name in after if failure(name)]
    if lost:
        _fail(folder, f"the run it begins with has no result: {failure(lost[0])}")
    if not failure(run):
        planned = training.plan(recipe, overrides=overrides, config=config)
        share, done = cost / max(planned.recipe.run.steps, 1), [0]

        def tell(step: int) -> None:
            if step % 10 == 0:
                report(round(share * step) - round(share * done[0]))
                done[0] = step

        try:
            training.run(planned, run, on_step=[tell], label=label, family=family, quiet=True)
        except FdlabError as error:
            if error.code != FAILED:
                raise
            _fail(folder, str(error).splitlines()[0])
        cost -= round(share * done[0])
    report(max(cost, 0))
    return folder.facts()


def _fail(folder: RunFolder, why: str) -> None:
    write_json(folder.path / "failed.json", {"why": why})


def failure(run: str) -> str:
    """Why a run has no result: it diverged, or what it needs did; empty where it has one or has not been run."""
    path = RunFolder(run).path / "failed.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["why"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError):
        return "its failed.json is damaged"


def digest(run: str) -> str:
    """sha256 of a run's result, so that a run made again is measured again; empty where it has none."""
    path = RunFolder(run).result
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def answered(record: str | Path, question: Mapping[str, Any]) -> bool:
    """Whether a stage's record is there and answers this very question."""
    try:
        known = Record.load(record).manifest.get("stage_question")
    except FdlabError:
        return False
    return bool(known == json.loads(json.dumps(question)))
