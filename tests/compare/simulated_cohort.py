"""A cohort like that of a study: teachers, students, both controls, seeds; numbers are drawn, the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fdlab.compare.answers import Answer
from fdlab.compare.claims import Verdict, judge
from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence
from fdlab.compare.hypotheses import Claim, Measure, packaged_claims
from fdlab.compare.roles import Selector
from fdlab.randomness import stream
from fdlab.records.table import frame

CONTROLS = ["own-design", "random-teacher", "undistilled", "untrained"]
SUPERVISED, CONTRASTIVE = "supervised into student", "contrastive into student"

# Truth of a metric by kind of model; a kind that is absent was not measured.
TRUE = {
    "teacher": 5.0,
    "student": 9.0,
    "own": 9.0,
    "random-student": 5.0,
    "undistilled": 5.0,
    "untrained": 1.0,
}


def members(seeds: int = 3, families: tuple[str, ...] = ("contrastive", "masked", "supervised")) -> list[Member]:
    found = []
    for seed in range(seeds):
        for family in ("random", *families):
            teacher = f"{family} {seed}"
            common: dict[str, Any] = {"source": "x", "seed": seed}
            found.append(Member(label=teacher, family=family, design="plain", group=family, **common))
            if family != "random":
                label = f"{family} in student design"
                found.append(Member(label=f"{label} {seed}", family=family, design="student", group=label, **common))
                label = f"{family} into plain"
                found.append(
                    Member(
                        label=f"{label} {seed}",
                        family="distilled",
                        design="plain",
                        group=label,
                        pair_of=teacher,
                        **common,
                    )
                )
            label = f"{family} into student"
            found.append(
                Member(
                    label=f"{label} {seed}",
                    family="distilled",
                    design="student",
                    group=label,
                    pair_of=teacher,
                    control=f"start {seed}",
                    **common,
                )
            )
        found.append(
            Member(label=f"start {seed}", source="x", family="random", design="student", group="start", seed=seed)
        )
    return found


def kind(member: Member) -> str:
    if member.label.startswith("start"):
        return "untrained"
    if member.family != "distilled":
        return "undistilled" if member.design == "student" else "teacher"
    if member.group.startswith("random"):
        return "random-student"
    return "student" if member.design == "student" else "own"


def evidence(
    models: list[Member],
    truth: Mapping[str, Mapping[str, float]],
    scatter: float = 0.2,
    shift: Mapping[str, float] | None = None,
) -> Evidence:
    """Whole-model rows of every metric in ``truth``: the true value, a shift shared by a seed, and scatter."""
    draw = stream(3, "cohort")
    rows = []
    for metric, true in truth.items():
        shared = {seed: draw.normal(0, 5 * scatter) for seed in range(20)}
        for member in models:
            noise = draw.normal(0, scatter)
            if kind(member) in true:
                value = true[kind(member)] + shared[member.seed or 0] + noise + (shift or {}).get(member.group, 0)
                rows.append({"model": member.label, "metric": metric, "probe": "made", "seed": 0, "value": value})
    return Evidence([frame(rows)], {}, {})


def cohort(models: list[Member]) -> Cohort:
    return Cohort(model=models)


def claim(**changes: Any) -> Claim:
    given: dict[str, Any] = {
        "id": "X",
        "statement": "Distilling raises it.",
        "first": Selector(family="distilled", own_design=False, teacher=["contrastive", "supervised"]),
        "controls": CONTROLS,
        "measures": [Measure(metric=["knn"], direction="up")],
    }
    return Claim(**(given | changes))


def verdict(truth: dict[str, float], one: Claim | None = None, seeds: int = 5, scatter: float = 0.05) -> Verdict:
    models = members(seeds)
    return judge([one or claim()], cohort(models), evidence(models, {"knn": truth}, scatter))[0]


def answers(of: Verdict) -> dict[str, Answer]:
    return {answer.group: answer for answer in of.answers}


def packaged(name: str) -> Claim:
    return next(one for one in packaged_claims() if one.id == name)
