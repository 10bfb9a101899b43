"""How well cheap measures rank models by how they fine-tune: Kendall's tau over a cohort whose scores are known.

A lineage (``lineage.py``) is the unit: models that descend from each other resemble each other in every measure and
in the score, so each of them is no new evidence. Two questions are asked of a measure. *Between* lineages: do the
means of lineages lie in the order of their mean scores (tau-b, all orders of the lineages as the null)? *Within*
lineages: are the models of one lineage ordered as their scores (``within.py``)? Holm's correction is over all measures
and both questions. A model is the mean of its seeds. Untrained models are left out unless asked for: nearly every
measure tells them from trained ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fdlab.compare.cohort import Cohort, Member, group_of
from fdlab.compare.evidence import Evidence, Missing
from fdlab.compare.hypotheses import SCORE
from fdlab.compare.kendall import fewest, interval, left_out, p_value, smallest_p, tau_b
from fdlab.compare.lineage import lineages
from fdlab.compare.significance import ALPHA, holm
from fdlab.compare.within import Within, within
from fdlab.errors import USAGE, FdlabError, nearest

SCORES = (SCORE, "best_accuracy", "accuracy")  # the first that at least three models have
FINE_TUNED = ("training", "trainability")  # probes that fine-tune: nothing that is known before
BETWEEN, WITHIN, BOTH = "ranks lineages", "ranks within lineages", "ranks between and within lineages"
OPPOSED, SENSITIVE, NOT_SEPARATED = "opposite between and within", "hangs on one lineage", "no clear order"
TOO_FEW = "too few lineages"  # followed by their number


class Rank(NamedTuple):
    """One measure against the score, over ``models`` in ``lineages``.

    ``tau``, ``low``, ``high``, ``p``, ``p_holm`` speak of the lineages' means, ``without`` is the lowest and highest
    tau when any one lineage is left out; ``within`` and ``within_holm`` speak of the pairs inside lineages.
    """

    probe: str
    metric: str
    models: int
    lineages: int
    tau: float
    low: float
    high: float
    p: float
    p_holm: float
    without: tuple[float, float]
    within: Within
    within_holm: float
    verdict: str


class Ranking(NamedTuple):
    """The score by model, the models' families and lineages, a rank for each measure (clearest first), and notes.

    ``tests`` is the number of p values that Holm's correction is over.
    """

    score: str
    scores: dict[str, float]
    families: dict[str, str]
    lineages: dict[str, str]
    ranks: list[Rank]
    tests: int
    notes: list[str]


def rank(
    cohort: Cohort,
    evidence: Evidence,
    *,
    score: str = "",
    measures: Sequence[str] = (),
    blocks: str = "last half",
    untrained: bool = False,
) -> Ranking:
    """Ranks every measure of the tables against the models' fine-tuning score.

    Args:
        score: a metric, or ``score`` for the cohort's own column; by default the first of ``SCORES`` that is known.
        measures: these metrics alone; all that were measured without fine-tuning by default.
        blocks: which blocks a measure by block is averaged over (a key of ``records.means.PARTS``).
        untrained: keep models of family ``random``.

    Raises:
        FdlabError: code 2, fewer than three models have a score, no measure beside it, unknown names.
    """
    kept = [member for member in cohort.model if untrained or member.family != "random"]
    groups: dict[str, list[Member]] = {}
    for member in kept:
        groups.setdefault(group_of(member), []).append(member)
    chosen, scores = _scores(groups, evidence, score, blocks)
    descent = lineages(cohort)
    descent = {name: descent[name] for name in scores}
    ranks: list[Rank] = []
    notes: list[str] = []
    for probe, metric in _measures(evidence, chosen, measures):
        values = _values({name: groups[name] for name in scores}, evidence, metric, blocks)
        if len(values) < 3:
            continue
        if len(set(values.values())) == 1 or len({scores[name] for name in values}) == 1:
            notes.append(f"{metric} or the score is the same for all models, so nothing is ranked.")
            continue
        ranks.append(_ranked(probe, metric, values, scores, descent))
    if not ranks:
        raise FdlabError(
            "No measure can be held against the score.",
            f"Models with {chosen}: {', '.join(scores)}; nothing else was measured on three of them.",
            "Measure them with `fdlab compare --cohort FILE`.",
            code=USAGE,
        )
    ranks, tests = _corrected(ranks)
    families = {name: groups[name][0].family for name in scores}
    notes = [*_of_lineages(ranks, descent, tests), *_sentences(families, cohort, kept), *notes]
    return Ranking(chosen, scores, families, descent, ranks, tests, notes)


def _ranked(
    probe: str, metric: str, values: dict[str, float], scores: dict[str, float], descent: dict[str, str]
) -> Rank:
    """A measure's rank before correction; of one lineage, or of lineages with equal means, tau is NaN and p is 1."""
    x, y, names = list(values.values()), [scores[name] for name in values], [descent[name] for name in values]
    means_x, means_y = _means(x, names), _means(y, names)
    tau, n = float(tau_b(means_x, means_y)), len(means_x)
    p = p_value(means_x, means_y) if math.isfinite(tau) else 1.0
    without = left_out(means_x, means_y, list(dict.fromkeys(names)))
    inside = within(x, y, names)
    return Rank(probe, metric, len(x), n, tau, *interval(tau, n), p, math.nan, without, inside, math.nan, verdict="")


def _means(values: Sequence[float], names: Sequence[str]) -> list[float]:
    """The mean of each lineage, in the order in which they appear."""
    of = {name: [value for value, owner in zip(values, names, strict=True) if owner == name] for name in names}
    return [float(np.mean(group)) for group in of.values()]


def _scores(
    groups: dict[str, list[Member]], evidence: Evidence, asked: str, blocks: str
) -> tuple[str, dict[str, float]]:
    """The score's name and its value by group."""
    if asked and asked not in evidence.metrics():
        raise FdlabError(
            f"The score {asked!r} is not in the cohort or the tables.{nearest(asked, evidence.metrics())}",
            code=USAGE,
        )
    tried = [asked] if asked else list(SCORES)
    values = {name: _values(groups, evidence, name, blocks) for name in tried}
    name = next((name for name in tried if len(values[name]) >= 3), None)
    if name is None:
        most = max(values.values(), key=len)
        raise FdlabError(
            f"{len(most)} models of the cohort have a fine-tuning score; a ranking needs 3, an answer more.",
            f"Looked for: {', '.join(tried)}.",
            "Write score = 0.83 (a share) beside each model of the cohort, or give a table of fine-tunings --with.",
            code=USAGE,
        )
    return name, values[name]


def _values(groups: dict[str, list[Member]], evidence: Evidence, metric: str, blocks: str) -> dict[str, float]:
    """Group -> mean over its seeds, of the groups that have the metric as one number."""
    means = {}
    for name, members in groups.items():
        try:
            of_seeds = [evidence.value(member, metric, blocks) for member in members]
        except Missing:
            continue
        if np.isfinite(of_seeds).all():
            means[name] = float(np.mean(of_seeds))
    return means


def _measures(evidence: Evidence, score: str, asked: Sequence[str]) -> list[tuple[str, str]]:
    """(probe, metric) of everything that is known without fine-tuning, or of what is asked for."""
    table = evidence.table[~evidence.table["probe"].isin(FINE_TUNED) & (evidence.table["metric"] != score)]
    known = set(table["metric"])
    for name in asked:
        if name not in known:
            raise FdlabError(f"No measure is called {name!r} in the tables.{nearest(name, known)}", code=USAGE)
    table = table[table["metric"].isin(asked)] if asked else table
    return [(str(p), str(m)) for p, m in table[["probe", "metric"]].drop_duplicates("metric").itertuples(index=False)]


def _corrected(ranks: list[Rank]) -> tuple[list[Rank], int]:
    """The ranks with corrected p values and verdicts, clearest first; and the number of p values."""
    asked = [(rank, "between", rank.p) for rank in ranks]
    asked += [(rank, "within", rank.within.p) for rank in ranks if math.isfinite(rank.within.p)]
    adjusted = holm([p for _, _, p in asked])
    of = {(id(rank), side): value for (rank, side, _), value in zip(asked, adjusted, strict=True)}
    found = [
        _judged(
            rank._replace(p_holm=of[id(rank), "between"], within_holm=of.get((id(rank), "within"), math.nan)),
            len(asked),
        )
        for rank in ranks
    ]
    found.sort(key=lambda rank: (rank.verdict not in (BETWEEN, WITHIN, BOTH), rank.p, -abs(_or(rank.within.tau, 0.0))))
    return found, len(asked)


def _judged(rank: Rank, tests: int) -> Rank:
    """The rank with its verdict; none is given where so few lineages could not reach ``ALPHA`` in any order."""
    if smallest_p(rank.lineages) * tests > ALPHA:
        return rank._replace(verdict=f"{TOO_FEW} ({rank.lineages})")
    between, inside = rank.p_holm <= ALPHA, rank.within_holm <= ALPHA
    ends = [end for end in rank.without if math.isfinite(end)]
    holds = between and all(end * rank.tau > 0 for end in ends)
    holds_inside = inside and not rank.within.one_lineage
    if holds and holds_inside:
        return rank._replace(verdict=BOTH if rank.tau * rank.within.tau > 0 else OPPOSED)
    if holds or holds_inside:
        return rank._replace(verdict=BETWEEN if holds else WITHIN)
    return rank._replace(verdict=SENSITIVE if between or inside else NOT_SEPARATED)


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other


def _of_lineages(ranks: list[Rank], descent: dict[str, str], tests: int) -> list[str]:
    """What the number of lineages and of questions allows to say."""
    notes, names = [], list(descent.values())
    counts = {name: names.count(name) for name in descent.values()}
    if len(counts) < len(names):
        shown = ", ".join(f"{name} ({count})" for name, count in counts.items())
        notes.append(
            f"{len(names)} models are {len(counts)} {_plural('lineage', len(counts))}: {shown}. Models of one "
            "lineage are related, so a lineage is the unit."
        )
    n = max(rank.lineages for rank in ranks)
    least = smallest_p(n)
    if least * tests > ALPHA:
        sides = f" ({len(ranks)} measures, between and within lineages)" if tests > len(ranks) else ""
        more = (
            f", {min(1.0, least * tests):.2g} after Holm's correction for {tests} questions{sides}" if tests > 1 else ""
        )
        few = f"{n} {_plural('lineage is', n, 'lineages are')} too few to say anything"
        alone = 2 if any(math.isfinite(rank.within.p) for rank in ranks) else 1
        need = f"{fewest(tests)} are the fewest for {tests} questions"
        need += f", {fewest(alone)} for one measure named in advance (--measures)" if tests > alone else ""
        notes.append(f"{few}: even a perfect order has p = {least:.2g}{more}. {need}.")
    return notes


def _sentences(families: dict[str, str], cohort: Cohort, kept: list[Member]) -> list[str]:
    """Whether several families stand here; untrained models that were left out."""
    notes = []
    trained = {family or name for name, family in families.items()}
    if len(trained) == 1:
        notes.append("One family: nothing is known of models of another one.")
    absent = len(cohort.model) - len(kept)
    if absent:
        verb = "model is" if absent == 1 else "models are"
        notes.append(f"{absent} untrained {verb} left out: telling them from trained ones ranks nothing.")
    return notes


def _plural(one: str, count: int, several: str = "") -> str:
    return one if count == 1 else several or f"{one}s"
