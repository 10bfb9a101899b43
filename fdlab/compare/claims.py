"""Claims judged by evidence: every group of models has its own answer, and a claim over groups is their intersection.

One group's answer is in ``answers.py``, the comparisons behind it in ``contrasts.py``. Holm's correction runs over all
answers of the file, once for what holds or does not, and once for what is owed to the training and not to a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fdlab.compare.answers import BESIDE, NOT_TESTED, SUPPORTED, Answer, Contrast, over_groups
from fdlab.compare.cohort import Cohort, Member, group_of
from fdlab.compare.contrasts import ByGroup, Pairs, controls, effects
from fdlab.compare.evidence import INTERVALS, SEEDS, Evidence, Missing
from fdlab.compare.hypotheses import Claim
from fdlab.compare.roles import SAYS, Roles
from fdlab.compare.significance import holm

FEW_SEEDS = 3


@dataclass
class Verdict:
    """The answers to a claim by group, and what they come to; without answers ``why`` says what is lacking."""

    claim: Claim
    answers: list[Answer] = field(default_factory=list)
    why: str = ""

    @property
    def verdict(self) -> str:
        """Over all groups."""
        return over_groups(self.answers)

    @property
    def differs(self) -> bool:
        """Whether groups have different answers."""
        return len({answer.verdict for answer in self.answers}) > 1


def judge(claims: Sequence[Claim], cohort: Cohort, evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in order."""
    roles = Roles(cohort)
    verdicts = [_examine(claim, roles, evidence) for claim in claims]
    tested = [answer for verdict in verdicts for answer in verdict.answers if answer.over_seeds]
    asking = [answer for answer in tested if answer.asks]
    for answer, adjusted in zip(tested, holm([answer.p for answer in tested]), strict=True):
        answer.p_holm = adjusted
    for answer, adjusted in zip(asking, holm([answer.p_attributed for answer in asking]), strict=True):
        answer.p_attributed_holm = adjusted
    for verdict in verdicts:
        for answer in verdict.answers:
            answer.decide(len(tested))
    return verdicts


def _examine(claim: Claim, roles: Roles, evidence: Evidence) -> Verdict:
    """The answers to a claim, not yet decided, or why there are none."""
    if claim.needs:
        return Verdict(claim, why=claim.needs)
    firsts = roles.select(claim.first)
    if not firsts:
        return Verdict(claim, why=f"the cohort has no model with {claim.first}")
    pairs: Pairs = [(first, second) for first in firsts if (second := roles.related(first, claim.minus)) is not None]
    if not pairs and not claim.agreement:
        wanted = SAYS.get(str(claim.minus), f"a model like it with {claim.minus}")
        return Verdict(claim, why=f"for {firsts[0].label} the cohort lacks {wanted}")
    try:
        by_group = effects(claim, pairs, roles, evidence)
    except Missing as reason:
        return Verdict(claim, why=str(reason))
    if not by_group:
        return Verdict(claim, why=f"no group has {' and '.join(m.metric[0] for m in claim.measures if m.decides)}")
    found, missing = controls(claim, pairs, roles, evidence)
    return Verdict(claim, [_answer(claim, group, by_group, found, missing, pairs) for group in by_group])


def _answer(
    claim: Claim, group: str, by_group: ByGroup, found: ByGroup, missing: dict[str, list[str]], pairs: Pairs
) -> Answer:
    contrasts = [*by_group[group], *found.get(group, [])]
    mine = [(a, b) for a, b in pairs if group_of(a) == group]
    notes = [*claim.not_controlled, *_differing(mine), *(f"no {name} control" for name in missing.get(group, ()))]
    return Answer(
        group, contrasts, asks=bool(claim.controls), not_controlled=list(dict.fromkeys(notes + _unit_notes(contrasts)))
    )


def _differing(pairs: Sequence[tuple[Member, Member]]) -> list[str]:
    """What the pairs differ in beside what is claimed, as far as the cohort states it."""
    notes = []
    if any(not (a.design and b.design) for a, b in pairs):
        notes.append("designs are not stated")
    elif any(a.design != b.design for a, b in pairs):
        notes.append("the architecture differs too")
    seconds = {b.label for _, b in pairs}
    if len(pairs) > 1 and len(seconds) == 1:
        notes.append(f"one checkpoint of {seconds.pop()} for all seeds")
    return notes


def _unit_notes(contrasts: Sequence[Contrast]) -> list[str]:
    """Sentences on the seeds and images that the comparisons rest on."""
    notes = [sentence for contrast in contrasts for sentence in contrast.result.notes]
    deciding = [contrast for contrast in contrasts if contrast.role != BESIDE]
    if any(contrast.result.unit == INTERVALS for contrast in deciding):
        notes.append("intervals taken as independent")
    fewest = min((contrast.change.n for contrast in deciding if contrast.result.unit == SEEDS), default=FEW_SEEDS)
    return notes + ([f"{fewest} seeds only"] if fewest < FEW_SEEDS else [])


__all__ = ["NOT_TESTED", "SUPPORTED", "Answer", "Contrast", "Verdict", "judge"]
