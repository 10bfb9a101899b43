"""What a comparison is asked, and of which pairs: fixed beforehand, by what the models are to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fdlab.compare.cohort import Cohort, Member, group_of

TEACHER, BASELINE, CONTROL = KINDS = ("teacher", "baseline", "control")


class Question(NamedTuple):
    """A question of the page, and the measures that answer it."""

    name: str
    metrics: tuple[str, ...]


QUESTIONS = (
    Question("accuracy", ("accuracy",)),
    Question("reach", ("distance",)),
    Question("spread", ("distance_spread",)),
    Question("alike", ("head_similarity",)),
    Question("follows", ("r2_relative", "r2_absolute")),
    Question("breadth", ("entropy",)),
    Question("readout", ("linear_probe", "knn")),
    Question("teacher", ("teacher_r2",)),
)
# What is spoken of in the place of pixels where the two models have different grids; nothing where there is none.
INSTEAD_OF_PIXELS = {"distance": "distance_ratio"}


class Pair(NamedTuple):
    """Two models, or two groups of trainings, of which the first minus the second is taken."""

    kind: str
    model: str
    reference: str


class Trained(NamedTuple):
    """The two models of one training each, by their labels: one seed of a pair."""

    model: str
    reference: str


def fixed_pairs(cohort: Cohort, starts: Mapping[str, str]) -> dict[Pair, list[Trained]]:
    """The pairs that findings speak of: each student minus its teacher, each model minus the baseline, then each
    model minus its untrained start. Two models are one pair at most, of the first kind that fits.

    Args:
        starts: model -> its untrained start, where the cohort names none; untrained starts are no models themselves.
    """
    members = {member.label: member for member in cohort.model}
    starts = {**starts, **{member.label: member.control for member in cohort.model if member.control}}
    models = [member for member in cohort.model if member.label not in starts.values()]
    wanted = [(TEACHER, member, member.pair_of) for member in models if member.pair_of]
    if cohort.baseline:
        wanted += [(BASELINE, member, _of_seed(cohort, cohort.baseline, member)) for member in models]
    wanted += [(CONTROL, member, starts[member.label]) for member in models if member.label in starts]
    found: dict[Pair, list[Trained]] = {}
    taken: set[frozenset[str]] = set()
    for kind, member, reference in wanted:
        groups = group_of(member), group_of(members[reference]) if reference in members else reference
        pair = Pair(kind, *groups)
        if groups[0] == groups[1] or (pair not in found and frozenset(groups) in taken):
            continue
        taken.add(frozenset(groups))
        found.setdefault(pair, []).append(Trained(member.label, reference))
    return found


def _of_seed(cohort: Cohort, label: str, member: Member) -> str:
    """The training of the group of ``label`` that has the seed of ``member``, else ``label`` itself."""
    group = next(group_of(other) for other in cohort.model if other.label == label)
    fits = (m.label for m in cohort.model if group_of(m) == group and m.seed is not None and m.seed == member.seed)
    return next(fits, label)
