"""The comparisons behind a claim, group by group: effects, controls, and what is shown beside.

Controls of a distillation: in the teacher's own design the effect must be there too; a student of the same design that
did not learn from this teacher must not move as far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fdlab.compare.answers import BESIDE, CONDITION, CONTROL, EFFECT, Contrast
from fdlab.compare.cohort import Member, group_of
from fdlab.compare.evidence import SEEDS, Combination, Evidence, Missing, Result
from fdlab.compare.hypotheses import Claim, Measure
from fdlab.compare.over_seeds import over_seeds
from fdlab.compare.roles import SAYS, Roles
from fdlab.compare.significance import quantile
from fdlab.records.estimate import Estimate

ByGroup = dict[str, list[Contrast]]
Pairs = Sequence[tuple[Member, Member]]
ALL = "all models"  # the group of a claim that speaks of no pairs


def effects(claim: Claim, pairs: Pairs, roles: Roles, evidence: Evidence) -> ByGroup:
    """Group -> what the claim's measures say of it: effects, conditions, and what stands beside.

    Raises:
        Missing: a measure that decides was not measured, or a model is not in the cohort.
    """
    found: ByGroup = {}
    for measure in claim.measures:
        try:
            parts = _of_measure(claim, measure, pairs, roles, evidence)
        except Missing:
            if measure.decides:
                raise
            continue
        for group, contrasts in parts.items():
            found.setdefault(group, []).extend(contrasts)
    needed = sum(measure.decides for measure in claim.measures)
    return {group: each for group, each in found.items() if sum(c.role == EFFECT for c in each) == needed}


def _of_measure(claim: Claim, measure: Measure, pairs: Pairs, roles: Roles, evidence: Evidence) -> ByGroup:
    """Group -> the comparisons of one measure, by the claim's form."""
    role = EFFECT if measure.decides else BESIDE
    if claim.agreement:
        return _agreement(claim, measure, roles, evidence, role)
    plain = _changes(claim, measure, [((1.0, a), (-1.0, b)) for a, b in pairs], evidence)
    what = {group: _named(group, pairs) for group in plain}
    if claim.carried_by:
        return _carried(claim, measure, pairs, plain, evidence, role)
    if claim.reached_by:
        first = CONDITION if measure.decides else BESIDE
        own = _contrasts(plain, first, what, measure)
        return _joined(own, _reached(claim, measure, pairs, roles, evidence, role))
    if claim.levels:
        return _contrasts(*_peak(claim, measure, pairs, roles, evidence, role), measure)
    if claim.than is not None:
        return _contrasts(*_difference_of_differences(claim, measure, pairs, roles, evidence, role), measure)
    return _contrasts(plain, role, what, measure)


def _contrasts(results: dict[str, Result], role: str, what: dict[str, str], measure: Measure) -> ByGroup:
    size = measure.size
    return {
        group: [Contrast(role, what[group], measure.direction, size, measure.margin, result, log=measure.log)]
        for group, result in results.items()
    }


def _joined(*parts: ByGroup) -> ByGroup:
    """The comparisons of the groups that all parts have."""
    common = [group for group in parts[0] if all(group in part for part in parts)]
    return {group: [contrast for part in parts for contrast in part[group]] for group in common}


def _changes(
    claim: Claim, measure: Measure, terms: Sequence[tuple[tuple[float, Member], ...]], evidence: Evidence
) -> dict[str, Result]:
    """Group -> change; the group is that of each combination's first model."""
    combinations = [Combination(group_of(each[0][1]), each[0][1].seed, each) for each in terms]
    return evidence.changes(combinations, measure.metric, claim.blocks, log=measure.log)


def _reached(claim: Claim, measure: Measure, pairs: Pairs, roles: Roles, evidence: Evidence, role: str) -> ByGroup:
    """What another model reaches of the change, beyond the claim's share of it."""
    triples = [(a, b, c) for a, b in pairs if (c := roles.related(a, claim.reached_by)) is not None]
    if not triples:
        raise Missing(f"for {pairs[0][0].label} the cohort lacks {SAYS[claim.reached_by]}")
    share = claim.share
    # the group is the student's, whose model therefore stands first
    terms = [((-share, a), (1.0, c), (share - 1, b)) for a, b, c in triples]
    results = _changes(claim, measure, terms, evidence)
    names = {group_of(a): group_of(c) for a, _, c in triples}
    what = {group: f"change of {names[group]} beyond {share:g} of that of {group}" for group in results}
    without = Measure(metric=measure.metric, direction="up" if measure.direction == "up" else "down", log=measure.log)
    return _contrasts(results, role, what, without)


def _peak(
    claim: Claim, measure: Measure, pairs: Pairs, roles: Roles, evidence: Evidence, role: str
) -> tuple[dict[str, Result], str, dict[str, str]]:
    """The quadratic contrast over variants in order; below 0 where the curve has a peak between its ends."""
    steps = np.arange(len(claim.levels)) - (len(claim.levels) - 1) / 2
    weights = steps**2 - (steps**2).mean()
    weights = weights / np.abs(weights).sum() * 2  # the ends' mean minus the middle's, as a difference of two means
    terms = []
    for first, _ in pairs:
        members = [first if level == first.variant else roles.variant(first, level) for level in claim.levels]
        if all(members):
            order = sorted(zip(weights, members, strict=True), key=lambda term: term[1] is not first)
            terms.append(tuple((float(weight), member) for weight, member in order if member))
    if not terms:
        raise Missing(f"for {pairs[0][0].label} the cohort lacks the variants {', '.join(map(repr, claim.levels))}")
    results = _changes(claim, measure, terms, evidence)
    what = f"quadratic contrast over {len(claim.levels)} variants of"
    return results, role, {group: f"{what} {group}" for group in results}


def _difference_of_differences(
    claim: Claim, measure: Measure, pairs: Pairs, roles: Roles, evidence: Evidence, role: str
) -> tuple[dict[str, Result], str, dict[str, str]]:
    """How much more the first pair differs than the pair of ``than`` and ``than_minus``."""
    terms = []
    for a, b in pairs:
        c, d = (roles.related(a, selector) for selector in (claim.than, claim.than_minus) if selector is not None)
        if c is not None and d is not None:
            terms.append(((1.0, a), (-1.0, b), (-1.0, c), (1.0, d)))
    if not terms:
        raise Missing(
            f"for {pairs[0][0].label} the cohort lacks a model like it with {claim.than} or {claim.than_minus}"
        )
    results = _changes(claim, measure, terms, evidence)
    what = {group: f"{_named(group, pairs)}, beyond the same with {claim.than}" for group in results}
    return results, role, what


def _carried(
    claim: Claim, measure: Measure, pairs: Pairs, plain: dict[str, Result], evidence: Evidence, role: str
) -> ByGroup:
    """Whether the measure changes more where the carrier does: Fisher's z of their correlation over seeds in groups.

    Each group's own mean is taken off first, so that only the scatter of seeds within groups counts; the standard
    error is 1 / sqrt(N - G - 2) for N pairs in G groups (Fisher 1921).
    """
    terms = [((1.0, a), (-1.0, b)) for a, b in pairs]
    combinations = [Combination(group_of(each[0][1]), each[0][1].seed, each) for each in terms]
    carrier = evidence.changes(combinations, [claim.carried_by], claim.blocks)
    x, y, groups = [], [], 0
    for group, result in plain.items():
        common = [seed for seed in result.units if group in carrier and seed in carrier[group].units]
        if len(common) > 1:
            groups += 1
            own = [np.array([r.units[seed] for seed in common]) for r in (carrier[group], result)]
            x.append(own[0] - own[0].mean())
            y.append(own[1] - own[1].mean())
    n = sum(map(len, x))
    if n - groups < 6:
        raise Missing(f"{n} pairs of changes in {groups} groups are too few to see whether one carries the other")
    both = np.concatenate(x), np.concatenate(y)
    scale = float(np.sqrt((both[0] ** 2).sum() * (both[1] ** 2).sum()))
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, float((both[0] * both[1]).sum()) / scale))) if scale else math.nan
    error = 1 / math.sqrt(n - groups - 2)
    half = quantile(math.inf) * error
    change = Estimate(z, z - half, z + half, n)
    metric = next(iter(plain.values())).metric
    result = Result(metric, change, SEEDS, math.inf, error * math.sqrt(n))
    what = f"correlation (Fisher's z) of the changes of {claim.carried_by} and {metric}"
    return {ALL: [Contrast(role, what, measure.direction, 0.0, "", result)]}


def _agreement(claim: Claim, measure: Measure, roles: Roles, evidence: Evidence, role: str) -> ByGroup:
    """Kendall's W of the models' ranks over the objectives of a measure, minus the claim's value; one W a seed."""
    members = roles.select(claim.first)
    for metric in measure.metric:
        known: dict[str, dict[str, dict[int | None, float]]] = {}  # group -> objective -> seed -> value
        for member in members:
            for objective, seeds in evidence.by_setting(member, metric, claim.blocks).items():
                own: dict[int | None, float] = dict(seeds)
                if member.seed is not None:
                    own = {member.seed: float(np.mean(list(seeds.values())))}
                known.setdefault(group_of(member), {}).setdefault(objective, {}).update(own)
        settings = sorted(set.intersection(*(set(each) for each in known.values()))) if known else []
        if len(settings) > 1 and len(known) > 2:
            break
    else:
        raise Missing(f"{' or '.join(measure.metric)} was not measured on three models under two objectives")
    common = set.intersection(*(set(each[setting]) for each in known.values() for setting in settings))
    units = {}
    for seed in sorted(common, key=str):
        ranks = np.array([_ranks([known[group][setting][seed] for group in known]) for setting in settings])
        units[seed] = kendall_w(ranks) - claim.agreement
    mean = over_seeds({ALL: list(units.values())})[ALL]
    if mean.change.n < 2:
        raise Missing(f"{metric} under several objectives needs two seeds")
    result = Result(metric, mean.change, SEEDS, mean.freedom, mean.sd, mean.pooled, units)
    what = f"Kendall's W of {len(known)} models over {len(settings)} objectives minus {claim.agreement:g}"
    return {ALL: [Contrast(role, what, measure.direction, measure.size, measure.margin, result)]}


def _ranks(values: Sequence[float]) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values))


def kendall_w(ranks: np.ndarray) -> float:
    """Kendall's coefficient of concordance of ranks (m settings, k models): 1 where all settings rank alike.

    ``W = 12 S / (m^2 (k^3 - k))``, S the squared deviations of the rank sums (Kendall & Smith 1939); without the
    correction for ties.

    >>> kendall_w(np.array([[1, 2, 3], [1, 2, 3]])), kendall_w(np.array([[1, 2, 3], [3, 2, 1]]))
    (1.0, 0.0)
    """
    m, k = ranks.shape
    sums = ranks.sum(0)
    return float(12 * ((sums - sums.mean()) ** 2).sum() / (m**2 * (k**3 - k)))


def controls(claim: Claim, pairs: Pairs, roles: Roles, evidence: Evidence) -> tuple[ByGroup, dict[str, list[str]]]:
    """Group -> the comparisons with controls; and group -> the controls that it lacks or that were not measured."""
    deciding = [m for m in claim.measures if m.decides and m.direction in ("up", "down")]
    found: ByGroup = {}
    missing: dict[str, list[str]] = {}
    groups = list(dict.fromkeys(group_of(a) for a, _ in pairs))
    for name in claim.controls if deciding else ():
        shown, terms = [], []
        for first, second in pairs:
            control = roles.related(first, name)
            if control is not None and control is not second:
                changed = (control, second) if name == "own-design" else (first, control)
                shown.append((group_of(first), changed))
                terms.append((group_of(first), first.seed, ((1.0, changed[0]), (-1.0, changed[1]))))
        for measure in deciding:
            try:
                combinations = [Combination(*term) for term in terms]
                results = evidence.changes(combinations, measure.metric, claim.blocks, log=measure.log)
            except (Missing, IndexError):
                results = {}
            for group in groups:
                if group not in results:
                    missing.setdefault(group, []).append(name)
                    continue
                mine = [changed for owner, changed in shown if owner == group]
                what = f"{name}: {group_of(mine[0][0])} minus {group_of(mine[0][1])}"
                found.setdefault(group, []).append(
                    Contrast(CONTROL, what, measure.direction, 0.0, "", results[group], name)
                )
    return found, {group: list(dict.fromkeys(names)) for group, names in missing.items()}


def _named(group: str, pairs: Pairs) -> str:
    """``students minus teachers`` of one group, each name once."""
    seconds = list(dict.fromkeys(group_of(b) for a, b in pairs if group_of(a) == group))
    return f"{group} minus {', '.join(seconds[:3])}"
