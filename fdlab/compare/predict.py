"""How well cheap measures rank models by how they fine-tune: Kendall's tau over a cohort whose scores are known.

One model is one pair of values: seeds of a group are averaged first, so that they do not count as several models.
Untrained models are left out unless asked for: nearly every measure tells them from trained ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fdlab.compare.cohort import Cohort, Member, group_of
from fdlab.compare.evidence import Evidence, Missing
from fdlab.compare.hypotheses import SCORE
from fdlab.compare.kendall import interval, left_out, p_value, smallest_p, tau_b
from fdlab.compare.significance import ALPHA, holm
from fdlab.errors import USAGE, FdlabError, nearest

SCORES = (SCORE, "best_accuracy", "accuracy")  # the first that at least three models have
FINE_TUNED = ("training", "trainability")  # probes that fine-tune: nothing that is known before
RANKS, SENSITIVE, NOT_SEPARATED, TOO_FEW = "ranks them", "hangs on one", "not separated", "too few models"


class Rank(NamedTuple):
    """One measure against the score; ``one_out`` and ``family_out``: lowest and highest tau without one of them."""

    probe: str
    metric: str
    n: int
    tau: float
    low: float
    high: float
    p: float
    p_holm: float
    one_out: tuple[float, float]
    family_out: tuple[float, float]
    verdict: str


class Prediction(NamedTuple):
    """The score by model, the models' families, a rank for each measure (clearest first), and notes in sentences."""

    score: str
    scores: dict[str, float]
    families: dict[str, str]
    ranks: list[Rank]
    notes: list[str]


def predict(
    cohort: Cohort,
    evidence: Evidence,
    *,
    score: str = "",
    measures: Sequence[str] = (),
    blocks: str = "last half",
    untrained: bool = False,
) -> Prediction:
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
    families = {name: groups[name][0].family for name in scores}
    ranks: list[Rank] = []
    notes: list[str] = []
    for probe, metric in _measures(evidence, chosen, measures):
        values = _values({name: groups[name] for name in scores}, evidence, metric, blocks)
        if len(values) < 3:
            continue
        x, y = list(values.values()), [scores[name] for name in values]
        tau = float(tau_b(x, y))
        if not math.isfinite(tau):
            notes.append(f"{metric} or the score is the same for all models, so nothing is ranked.")
            continue
        one_out = left_out(x, y, list(values))
        family_out = left_out(x, y, [families[name] or name for name in values])
        ends, p = interval(tau, len(x)), p_value(x, y)
        ranks.append(Rank(probe, metric, len(x), tau, *ends, p, math.nan, one_out, family_out, verdict=""))
    if not ranks:
        raise FdlabError(
            "No measure can be held against the score.",
            f"Models with {chosen}: {', '.join(scores)}; nothing else was measured on three of them.",
            "Measure them with `fdlab compare --cohort FILE`.",
            code=USAGE,
        )
    ranks = [_judged(rank, adjusted) for rank, adjusted in zip(ranks, holm([r.p for r in ranks]), strict=True)]
    ranks.sort(key=lambda rank: (rank.p, -abs(rank.tau)))
    return Prediction(chosen, scores, families, ranks, _sentences(ranks, scores, families, cohort, kept) + notes)


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


def _judged(rank: Rank, adjusted: float) -> Rank:
    """The rank with the corrected p and its verdict."""
    ends = [end for pair in (rank.one_out, rank.family_out) for end in pair if math.isfinite(end)]
    if smallest_p(rank.n) > ALPHA:
        verdict = TOO_FEW
    elif adjusted > ALPHA:
        verdict = NOT_SEPARATED
    else:
        verdict = RANKS if all(end * rank.tau > 0 for end in ends) else SENSITIVE
    return rank._replace(p_holm=adjusted, verdict=verdict)


def _sentences(
    ranks: list[Rank], scores: dict[str, float], families: dict[str, str], cohort: Cohort, kept: list[Member]
) -> list[str]:
    """What the number of models, families and measures allows to say; untrained models that were left out."""
    notes, n, best = [], max(rank.n for rank in ranks), ranks[0]
    if smallest_p(n) > ALPHA:
        notes.append(
            f"{n} models are too few to say anything: even a perfect ranking has p = {smallest_p(n):.2g}, and no "
            "interval can exclude 0. Five are the fewest."
        )
    elif smallest_p(n) * len(ranks) > ALPHA:
        notes.append(
            f"{n} models are too few for {len(ranks)} measures at once: a perfect ranking has p = {smallest_p(n):.2g}, "
            f"{min(1.0, smallest_p(n) * len(ranks)):.2g} after Holm's correction. Name one measure in advance, or "
            "bring more models."
        )
    if n > 4:
        chance = 1 - (1 - ALPHA) ** len(ranks)
        notes.append(
            f"Of {len(ranks)} unrelated measures, one or more would reach p 0.05 uncorrected with probability "
            f"{chance:.0%}; the smallest p here is {best.p:.2g} ({best.metric})."
        )
    count = len({families[name] or name for name in scores})
    if count < 3:
        notes.append(f"{count} {'family' if count == 1 else 'families'}: nothing is known of models of another one.")
    absent = len(cohort.model) - len(kept)
    if absent:
        notes.append(f"{absent} untrained models are left out: telling them from trained ones ranks nothing.")
    return notes
