"""One training as a job of many: it is continued, tells how far it is, and a divergence is noted, not raised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fdlab.errors import Diverged, FdlabError
from fdlab.records.atomic import write_json
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.study.parallel import Job, report


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
    """Runs or continues one training in a worker; returns run.json, or an empty dict where there is no result.

    Nothing is trained where a run of ``after`` has no result: that is not kept, so that it is tried again later.
    """
    from fdlab.study import training

    folder = RunFolder(run)
    if not failure(run, after):
        planned = training.plan(recipe, overrides=overrides, config=config)
        share, done = cost / max(planned.recipe.run.steps, 1), [0]

        def tell(step: int) -> None:
            if step % 10 == 0:
                report(round(share * step) - round(share * done[0]))
                done[0] = step

        try:
            training.run(planned, run, on_step=[tell], label=label, family=family, quiet=True)
        except Diverged as error:
            write_json(folder.path / "failed.json", {"why": error.what})
        cost -= round(share * done[0])
    report(max(cost, 0))
    return folder.facts()


def failure(run: str, after: Sequence[str] = ()) -> str:
    """Why a run has no result: it diverged, or one that it needs did; empty where it has one or has not been run.

    To try a run that diverged once more, its folder is deleted.
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
