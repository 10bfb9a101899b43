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

from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import INTERVALS, SEEDS, Combination, Evidence, Found, Missing
from fdlab.compare.hypotheses import Claim, Measure
from fdlab.compare.roles import SAYS, Roles, group_of
from fdlab.compare.significance import LEVEL, Change, for_and_against, holm

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested"
FEW_SEEDS = 3


@dataclass(frozen=True)
class Contrast:
    """One comparison of a claim: the effect itself, a control, or what is shown beside."""

    role: str  # effect, control, condition, beside
    what: str
    direction: str
    smallest: float
    found: Found

    @property
    def change(self) -> Change:
        return self.found.change

    @property
    def p(self) -> tuple[float, float]:
        """(that the statement holds, that it does not)."""
        return for_and_against(self.change, self.direction, self.smallest)


@dataclass
class Verdict:
    """What is said of a claim."""

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
        return min(self.p_for, self.p_against)

    @property
    def scope(self) -> str:
        """Of what the verdict holds; empty where several trainings are behind it."""
        return "these checkpoints" if self.contrasts and not any(c.found.unit == SEEDS for c in self.contrasts) else ""

    @property
    def effect(self) -> Contrast | None:
        """The contrast that a line shows: the first of the effects."""
        return next((one for one in self.contrasts if one.role == "effect"), None)


def judge(claims: Sequence[Claim], cohort: Cohort, evidence: Evidence) -> list[Verdict]:
    """A verdict for each claim, in order."""
    roles = Roles(cohort)
    found = [_examine(claim, roles, evidence) for claim in claims]
    tested = [one for one in found if one.contrasts]
    for one, adjusted in zip(tested, holm([one.p for one in tested]), strict=True):
        one.p_holm = adjusted
        _decide(one, len(tested))
    return found


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
    one = Verdict(claim, not_controlled=[*claim.not_controlled, *_open(pairs)])
    try:
        for measure in claim.measures:
            one.contrasts += _effects(claim, measure, pairs, roles, evidence)
    except Missing as reason:
        return Verdict(claim, why=str(reason))
    missing = _controls(claim, pairs, roles, evidence, one)
    one.not_controlled += [f"no {name} control" for name in missing]
    _weigh(one, without=bool(missing) and not any(c.role == "control" for c in one.contrasts))
    one.not_controlled += _units(one.contrasts)
    one.not_controlled = list(dict.fromkeys(one.not_controlled))
    return one


def _effects(
    claim: Claim, measure: Measure, pairs: Sequence[tuple[Member, Member]], roles: Roles, evidence: Evidence
) -> list[Contrast]:
    """The difference itself, and of a ``reached_by`` claim what the other model reaches of it."""
    plain = [_combination(first, ((1.0, first), (-1.0, second))) for first, second in pairs]
    role = ("condition" if claim.reached_by else "effect") if measure.decides else "beside"
    try:
        found = evidence.change(plain, measure.metric, claim.blocks)
    except Missing:
        if measure.decides:
            raise
        return []
    result = [Contrast(role, _named(pairs), measure.direction, measure.smallest, found)]
    if claim.reached_by:
        triples = [(a, b, c) for a, b in pairs if (c := roles.related(a, claim.reached_by)) is not None]
        if not triples:
            raise Missing(f"for {pairs[0][0].label} the cohort lacks {SAYS[claim.reached_by]}")
        share = claim.share
        parts = [_combination(a, ((1.0, c), (share - 1, b), (-share, a))) for a, b, c in triples]
        models = _names([c for *_, c in triples]), _names([a for a, *_ in triples])
        what = f"change of {models[0]} beyond {share:g} of that of {models[1]}"
        beyond = evidence.change(parts, measure.metric, claim.blocks)
        result.append(Contrast("effect" if measure.decides else "beside", what, measure.direction, 0.0, beyond))
    return result


def _controls(
    claim: Claim, pairs: Sequence[tuple[Member, Member]], roles: Roles, evidence: Evidence, one: Verdict
) -> list[str]:
    """Adds the contrasts with controls; the names of controls that the cohort has not, or not measured."""
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
                found = evidence.change(combinations, measure.metric, claim.blocks)
                one.contrasts.append(Contrast("control", f"{name}: {_named(shown)}", measure.direction, 0.0, found))
        except Missing:
            missing.append(name)
    return missing


def _combination(first: Member, terms: tuple[tuple[float, Member], ...]) -> Combination:
    return Combination(group_of(first), first.seed, terms)


def _weigh(one: Verdict, without: bool) -> None:
    """The claim's two p values; ``without``: controls are asked for and there are none."""
    needed = [c for c in one.contrasts if c.role != "beside"]
    turning = [c for c in needed if c.role != "condition"]
    one.p_for = 1.0 if without else max(c.p[0] for c in needed)
    one.p_against = min(1.0, len(turning) * min(c.p[1] for c in turning))


def _decide(one: Verdict, claims: int) -> None:
    """The verdict by the corrected p, and why."""
    adjusted = 1.0 if one.p_holm is None else one.p_holm
    if adjusted <= LEVEL:
        one.verdict = SUPPORTED if one.p_for <= one.p_against else CONTRADICTED
        against = [c for c in one.contrasts if c.role in ("effect", "control") and c.p[1] <= LEVEL]
        if one.verdict == CONTRADICTED and against:
            one.why = f"{min(against, key=lambda c: c.p[1]).what} points the other way"
        return
    one.verdict = UNDECIDED
    one.why = _why_not(one, claims)


def _why_not(one: Verdict, claims: int) -> str:
    needed = [c for c in one.contrasts if c.role != "beside"]
    flat = [c for c in needed if not c.change.known]
    open_ = [c for c in needed if c.p[0] > LEVEL]
    if flat:
        return f"{flat[0].what}: {flat[0].change.n} {flat[0].found.unit} without scatter test nothing"
    if [c for c in open_ if c.role != "control"]:
        failed = next(c for c in open_ if c.role != "control")
        edge = f"{failed.smallest:g}" if failed.smallest else "0"
        return f"the interval of {failed.found.metric} does not lie beyond {edge} on the claim's side"
    if open_:
        name = open_[0].what.partition(":")[0]
        if name == "own-design":
            return "in the teacher's own design the effect is not separated from 0: the new design may be its cause"
        return f"the control moves as far ({open_[0].what}, {open_[0].found.metric})"
    if one.p_for >= 1.0:
        return "none of its controls is in the cohort, so the effect may be the architecture's"
    return f"clear by itself (p {one.p:.2g}), not after correction for {claims} claims"


def _open(pairs: Sequence[tuple[Member, Member]]) -> list[str]:
    """What the pairs differ in beside what is claimed, as far as the cohort states it."""
    said = []
    if any(not (a.design and b.design) for a, b in pairs):
        said.append("designs are not stated")
    elif any(a.design != b.design for a, b in pairs):
        said.append("the architecture differs too")
    if len({a.label for a, _ in pairs}) > len({group_of(a) for a, _ in pairs}):
        for group in dict.fromkeys(group_of(a) for a, _ in pairs):
            seconds = {b.label for a, b in pairs if group_of(a) == group}
            if len(seconds) == 1 and len([a for a, _ in pairs if group_of(a) == group]) > 1:
                said.append(f"one checkpoint of {seconds.pop()} for all seeds")
    return said


def _units(contrasts: Sequence[Contrast]) -> list[str]:
    said = [sentence for one in contrasts for sentence in one.found.said]
    effects = [one for one in contrasts if one.role != "beside"]
    if any(one.found.unit != SEEDS for one in effects):
        said.append("one seed: about these checkpoints only, not about their training")
    if any(one.found.unit == INTERVALS for one in effects):
        said.append("intervals taken as independent")
    fewest = min((one.change.n for one in effects if one.found.unit == SEEDS), default=FEW_SEEDS)
    return said + ([f"{fewest} seeds only"] if fewest < FEW_SEEDS else [])


def _named(pairs: Sequence[tuple[Member, Member]]) -> str:
    return f"{_names([a for a, _ in pairs])} minus {_names([b for _, b in pairs])}"


def _names(members: Sequence[Member]) -> str:
    """The groups, each once; many are counted."""
    names = list(dict.fromkeys(group_of(member) for member in members))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
