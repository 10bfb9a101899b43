"""Claims judged by evidence: supported, contradicted, undecided or not tested, each with the reason.

A claim is supported where every measure that decides, and every control, points its way: the largest of their p values
is the claim's (intersection-union, Berger 1982). It is contradicted where one of them points the other way, Bonferroni
over them. The smaller of the two p values goes into Holm's correction over all tested claims of the file.

Controls of a distillation: in the teacher's own design the effect must be there too; a student of the same design that
did not learn from this teacher must not move as far. A claim that asks for controls is not supported without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fdlab.compare.cohort import Cohort, Member, group_of
from fdlab.compare.evidence import INTERVALS, SEEDS, Combination, Evidence, Missing, Result
from fdlab.compare.hypotheses import Claim, Measure
from fdlab.compare.roles import SAYS, Roles
from fdlab.compare.significance import ALPHA, for_and_against, holm
from fdlab.records.estimate import Estimate

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested"
FEW_SEEDS = 3


@dataclass(frozen=True)
class Contrast:
    """One comparison of a claim: the effect itself, a control, or what is shown beside."""

    role: str  # effect, control, condition, beside
    what: str
    direction: str
    smallest: float
    result: Result

    @property
    def change(self) -> Estimate:
        """The difference with its interval; ``n`` counts the units."""
        return self.result.change

    @property
    def p(self) -> tuple[float, float]:
        """(p that the statement holds, p that it does not)."""
        return for_and_against(self.change, self.direction, self.smallest, self.result.freedom)


@dataclass
class Verdict:
    """The answer to a claim: the verdict, why it is this one, and the comparisons behind it."""

    claim: Claim
    verdict: str = NOT_TESTED
    why: str = ""
    contrasts: list[Contrast] = field(default_factory=list)
    not_controlled: list[str] = field(default_factory=list)
    p_for: float = 1.0
    p_against: float = 1.0
    p_holm: float | None = None

    @property
    def p(self) -> float:
        """The smaller of the two p values, which goes into Holm's correction."""
        return min(self.p_for, self.p_against)

    @property
    def scope(self) -> str:
        """Of what the verdict holds; empty where several trainings are behind it."""
        over_seeds = any(contrast.result.unit == SEEDS for contrast in self.contrasts)
        return "these checkpoints" if self.contrasts and not over_seeds else ""

    @property
    def effect(self) -> Contrast | None:
        """The contrast that a line shows: the first of the effects."""
        return next((contrast for contrast in self.contrasts if contrast.role == "effect"), None)


def judge(claims: Sequence[Claim], cohort: Cohort, evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in order."""
    roles = Roles(cohort)
    verdicts = [_examine(claim, roles, evidence) for claim in claims]
    tested = [verdict for verdict in verdicts if verdict.contrasts]
    for verdict, adjusted in zip(tested, holm([verdict.p for verdict in tested]), strict=True):
        verdict.p_holm = adjusted
        _decide(verdict, len(tested))
    return verdicts


def _examine(claim: Claim, roles: Roles, evidence: Evidence) -> Verdict:
    """The contrasts of a claim, or why there are none."""
    if claim.needs:
        return Verdict(claim, why=claim.needs)
    firsts = roles.select(claim.first)
    if not firsts:
        return Verdict(claim, why=f"the cohort has no model with {claim.first}")
    pairs = [(first, second) for first in firsts if (second := roles.related(first, claim.minus)) is not None]
    if not pairs:
        wanted = SAYS.get(str(claim.minus), f"a model like it with {claim.minus}")
        return Verdict(claim, why=f"for {firsts[0].label} the cohort lacks {wanted}")
    verdict = Verdict(claim)
    try:
        for measure in claim.measures:
            verdict.contrasts += _effects(claim, measure, pairs, roles, evidence)
    except Missing as reason:
        return Verdict(claim, why=str(reason))
    controls, missing = _controls(claim, pairs, roles, evidence)
    verdict.contrasts += controls
    _weigh(verdict, without=bool(missing) and not controls)
    notes = [*claim.not_controlled, *_differing(pairs), *(f"no {name} control" for name in missing)]
    verdict.not_controlled = list(dict.fromkeys(notes + _unit_notes(verdict.contrasts)))
    return verdict


def _effects(
    claim: Claim, measure: Measure, pairs: Sequence[tuple[Member, Member]], roles: Roles, evidence: Evidence
) -> list[Contrast]:
    """The difference itself, and of a ``reached_by`` claim what the other model reaches of it."""
    plain = [_combination(first, ((1.0, first), (-1.0, second))) for first, second in pairs]
    role = ("condition" if claim.reached_by else "effect") if measure.decides else "beside"
    try:
        result = evidence.change(plain, measure.metric, claim.blocks)
    except Missing:
        if measure.decides:
            raise
        return []
    contrasts = [Contrast(role, _named(pairs), measure.direction, measure.smallest, result)]
    if claim.reached_by:
        triples = [(a, b, c) for a, b in pairs if (c := roles.related(a, claim.reached_by)) is not None]
        if not triples:
            raise Missing(f"for {pairs[0][0].label} the cohort lacks {SAYS[claim.reached_by]}")
        share = claim.share
        parts = [_combination(a, ((1.0, c), (share - 1, b), (-share, a))) for a, b, c in triples]
        models = _names([c for *_, c in triples]), _names([a for a, *_ in triples])
        what = f"change of {models[0]} beyond {share:g} of that of {models[1]}"
        beyond = evidence.change(parts, measure.metric, claim.blocks)
        contrasts.append(Contrast("effect" if measure.decides else "beside", what, measure.direction, 0.0, beyond))
    return contrasts


def _controls(
    claim: Claim, pairs: Sequence[tuple[Member, Member]], roles: Roles, evidence: Evidence
) -> tuple[list[Contrast], list[str]]:
    """The contrasts with controls, and the names of the controls that are not in the cohort or were not measured."""
    contrasts: list[Contrast] = []
    missing = []
    deciding = [m for m in claim.measures if m.decides and m.direction in ("up", "down")]
    for name in claim.controls if deciding else ():
        combinations, shown = [], []
        for first, second in pairs:
            control = roles.related(first, name)
            if control is not None and control is not second:
                changed = (control, second) if name == "own-design" else (first, control)
                shown.append(changed)
                combinations.append(_combination(first, ((1.0, changed[0]), (-1.0, changed[1]))))
        try:
            if not combinations:
                raise Missing(name)
            for measure in deciding:
                result = evidence.change(combinations, measure.metric, claim.blocks)
                contrasts.append(Contrast("control", f"{name}: {_named(shown)}", measure.direction, 0.0, result))
        except Missing:
            missing.append(name)
    return contrasts, missing


def _combination(first: Member, terms: tuple[tuple[float, Member], ...]) -> Combination:
    return Combination(group_of(first), first.seed, terms)


def _weigh(verdict: Verdict, without: bool) -> None:
    """The claim's two p values; ``without``: controls are asked for and there are none."""
    needed = [c for c in verdict.contrasts if c.role != "beside"]
    turning = [c for c in needed if c.role != "condition"]
    verdict.p_for = 1.0 if without else max(c.p[0] for c in needed)
    verdict.p_against = min(1.0, len(turning) * min(c.p[1] for c in turning))


def _decide(verdict: Verdict, claims: int) -> None:
    """The verdict by the corrected p, and why."""
    adjusted = 1.0 if verdict.p_holm is None else verdict.p_holm
    if adjusted <= ALPHA:
        verdict.verdict = SUPPORTED if verdict.p_for <= verdict.p_against else CONTRADICTED
        against = [c for c in verdict.contrasts if c.role in ("effect", "control") and c.p[1] <= ALPHA]
        if verdict.verdict == CONTRADICTED and against:
            verdict.why = f"{min(against, key=lambda c: c.p[1]).what} points the other way"
        return
    verdict.verdict = UNDECIDED
    verdict.why = _why_not(verdict, claims)


def _why_not(verdict: Verdict, claims: int) -> str:
    needed = [c for c in verdict.contrasts if c.role != "beside"]
    flat = [c for c in needed if not c.change.low < c.change.high]
    unclear = [c for c in needed if c.p[0] > ALPHA]
    failed = next((c for c in unclear if c.role != "control"), None)
    if flat:
        return f"{flat[0].what}: {flat[0].change.n} {flat[0].result.unit} without scatter test nothing"
    if failed:
        edge = f"{failed.smallest:g}" if failed.smallest else "0"
        return f"the interval of {failed.result.metric} does not lie beyond {edge} on the claim's side"
    if unclear:
        if unclear[0].what.startswith("own-design:"):
            return "in the teacher's own design the effect is not separated from 0: the new design may be its cause"
        return f"the control moves as far ({unclear[0].what}, {unclear[0].result.metric})"
    if verdict.p_for >= 1.0:
        return "none of its controls is in the cohort, so the effect may be the architecture's"
    return f"clear by itself (p {verdict.p:.2g}), not after correction for {claims} claims"


def _differing(pairs: Sequence[tuple[Member, Member]]) -> list[str]:
    """What the pairs differ in beside what is claimed, as far as the cohort states it."""
    notes = []
    if any(not (a.design and b.design) for a, b in pairs):
        notes.append("designs are not stated")
    elif any(a.design != b.design for a, b in pairs):
        notes.append("the architecture differs too")
    if len({a.label for a, _ in pairs}) > len({group_of(a) for a, _ in pairs}):
        for group in dict.fromkeys(group_of(a) for a, _ in pairs):
            seconds = {b.label for a, b in pairs if group_of(a) == group}
            if len(seconds) == 1 and len([a for a, _ in pairs if group_of(a) == group]) > 1:
                notes.append(f"one checkpoint of {seconds.pop()} for all seeds")
    return notes


def _unit_notes(contrasts: Sequence[Contrast]) -> list[str]:
    """Sentences on the seeds and images that the comparisons rest on."""
    notes = [sentence for contrast in contrasts for sentence in contrast.result.notes]
    effects = [contrast for contrast in contrasts if contrast.role != "beside"]
    if any(contrast.result.unit != SEEDS for contrast in effects):
        notes.append("one seed: about these checkpoints only, not about their training")
    if any(contrast.result.unit == INTERVALS for contrast in effects):
        notes.append("intervals taken as independent")
    fewest = min((contrast.change.n for contrast in effects if contrast.result.unit == SEEDS), default=FEW_SEEDS)
    return notes + ([f"{fewest} seeds only"] if fewest < FEW_SEEDS else [])


def _named(pairs: Sequence[tuple[Member, Member]]) -> str:
    return f"{_names([a for a, _ in pairs])} minus {_names([b for _, b in pairs])}"


def _names(members: Sequence[Member]) -> str:
    """The groups, each once; many are counted."""
    names = list(dict.fromkeys(group_of(member) for member in members))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
