"""``fdlab claims``: the claims of a file judged by a report's table and records, and written into the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.compare.answers import EFFECT, NOT_TESTED, ONE_SEED, SMALLER, UNDECIDED, Answer, Contrast
from fdlab.compare.claims import Verdict, judge
from fdlab.compare.cohort import Cohort, checked, read_cohort
from fdlab.compare.evidence import Evidence, records_under, scores_of
from fdlab.compare.hypotheses import Claim, packaged_claims, read_claims
from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import replacing
from fdlab.records.estimate import Estimate
from fdlab.records.metrics import METRICS
from fdlab.report.folder import read_report
from fdlab.report.report import Report
from fdlab.study.publish import rewrite_page

if TYPE_CHECKING:
    import pandas as pd


def claims(
    source: Path | str,
    others: Sequence[Path | str] = (),
    *,
    file: Path | str | None = None,
    cohort: Path | str | Cohort | None = None,
) -> dict[str, Any]:
    """Judges; writes ``claims.csv`` (a row a claim and group), ``contrasts.csv`` (a row a comparison) and the page.

    Args:
        source: a report's folder, which gets the verdicts; or a table.csv, beside which the two files are put.
        others: more folders or tables of the same models, e.g. of ``fdlab trainability``.
        file: claims of one's own instead of the packaged ones.
        cohort: who is what; by default what ``fdlab compare --cohort`` kept in the report.

    Returns:
        ``verdicts`` (``compare.claims.Verdict``), ``facts`` (the same as the page reads them), ``table`` (that of
        claims.csv), ``files`` and ``page`` (or None).

    Raises:
        FdlabError: code 2, the claims or the cohort are wrong or absent; 3, a table is.
    """
    report, group, evidence = gathered(source, others, cohort)
    chosen = packaged_claims() if file is None else read_claims(file, evidence.metrics())
    verdicts = judge(chosen, group, evidence)
    facts = [_fact(verdict) for verdict in verdicts]
    alone = Path(source).suffix == ".csv"
    folder = Path(source).parent if alone else Path(source)
    page = None if alone else rewrite_page(folder, report.with_facts(claims=facts))
    table = claims_table(verdicts)
    for name, rows in (("claims.csv", table), ("contrasts.csv", contrasts_table(verdicts))):
        with replacing(folder / name) as draft:
            rows.to_csv(draft, index=False, float_format="%.10g")
    return {"verdicts": verdicts, "facts": facts, "table": table, "files": [folder / "claims.csv"], "page": page}


def gathered(
    source: Path | str, others: Sequence[Path | str], cohort: Path | str | Cohort | None
) -> tuple[Report, Cohort, Evidence]:
    """The report, its cohort, and all that is known of the cohort's models.

    Raises:
        FdlabError: code 2, no cohort, or one whose models no table knows; 3, a table is absent or damaged.
    """
    report = read_report(source)
    group = _cohort(cohort, report, source)
    more = [read_report(other) for other in others]
    for path, other in zip(others, more, strict=True):
        _same_images(source, report, path, other)
    tables = [report.table, *(other.table for other in more)]
    records: dict[tuple[str, str], Path] = {}
    for folder in (Path(path) for path in (source, *others)):
        records |= records_under(folder) if folder.is_dir() else {}
    evidence = Evidence(tables, records, scores_of(group))
    known = set(evidence.table["model"])
    if not known & set(group.labels()):
        raise FdlabError(
            "No model of the cohort is in the table.",
            f"Cohort: {', '.join(group.labels()[:6])}. Table: {', '.join(sorted(known)[:6])}.",
            "Labels must be the same in both.",
            code=USAGE,
        )
    return report, group, evidence


def _same_images(source: Path | str, report: Report, path: Path | str, other: Report) -> None:
    """Refuses a second report that measured the same things on other images.

    Raises:
        FdlabError: code 2.
    """
    keys = ["probe", "metric"]
    both = _shared(report.table[keys], other.table[keys])
    if both and report.facts.data and other.facts.data and report.facts.data != other.facts.data:
        probe, metric = both[0]
        raise FdlabError(
            f"{source} and {path} both hold {metric} ({probe}), on other images.",
            f"{report.facts.data}, and {other.facts.data}.",
            "Give --with a report of the same images, or one that measured something else.",
            code=USAGE,
        )


def _shared(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[str, str]]:
    """The (probe, metric) pairs that two tables share."""
    pairs = [set(map(tuple, table.drop_duplicates().to_numpy())) for table in (first, second)]
    return sorted(pairs[0] & pairs[1])


def _cohort(cohort: Path | str | Cohort | None, report: Report, source: Path | str) -> Cohort:
    if isinstance(cohort, Cohort):
        return checked(cohort)
    if cohort is not None:
        return read_cohort(cohort)
    if not report.facts.cohort:
        raise FdlabError(
            f"{source} does not say which model is whose teacher or control.",
            "Only reports of `fdlab compare` keep their cohort.",
            "Give --cohort FILE (label, source, family, design, pair_of, control, seed of each model).",
            code=USAGE,
        )
    return checked(Cohort.model_validate({"model": list(report.facts.cohort)}))


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a claim and group of models; a claim that was not tested has one without group.

    ``effect`` is that of the first deciding measure with its uncorrected interval; ``p`` speaks for what ``side`` says.
    """
    import pandas as pd

    rows = []
    for verdict in verdicts:
        about: dict[str, Any] = {
            "id": verdict.claim.id,
            "statement": verdict.claim.statement,
            "over_groups": verdict.verdict,
        }
        ends: dict[str, Any] = {"source": verdict.claim.source}
        if not verdict.answers:
            rows.append({**about, "verdict": NOT_TESTED, **_effect(None), "why": verdict.why, **ends})
        for answer in verdict.answers:
            tests: dict[str, Any] = (
                {"side": answer.side, "p": answer.p, "p_holm": answer.p_holm} if answer.over_seeds else {}
            )
            rows.append(
                {
                    **about,
                    "group": answer.group,
                    "verdict": answer.verdict,
                    **_effect(answer.effect),
                    **tests,
                    "detectable": answer.detectable,
                    "why": answer.why,
                    "not_controlled": "; ".join(answer.not_controlled),
                    **ends,
                }
            )
    columns = ["id", "group", "verdict", "over_groups", "statement", *_effect(None), "side", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "detectable", "why", "not_controlled", "source"])


def contrasts_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison: effects, controls, and what stands beside without a part in the verdict."""
    import pandas as pd

    rows = [
        {
            "id": verdict.claim.id,
            "group": answer.group,
            "role": contrast.role,
            **_effect(contrast),
            "p_for": contrast.p[0],
            "p_against": contrast.p[1],
            "p_within": contrast.p_within if contrast.margin else math.nan,
        }
        for verdict in verdicts
        for answer in verdict.answers
        for contrast in answer.contrasts
    ]
    columns = ["id", "group", "role", *_effect(None), "p_for", "p_against", "p_within"]
    return pd.DataFrame(rows, columns=columns)


def _effect(contrast: Contrast | None) -> dict[str, Any]:
    """The columns of one comparison; empty where nothing was tested."""
    if contrast is None:
        unknown = dict.fromkeys(("effect", "low", "high"), math.nan)
        empty = {"metric": "", "direction": "", "margin": "", "compared": ""}
        return {**empty, **unknown, "n": 0, "unit": "", "sd": math.nan, "freedom": math.nan, "pooled_groups": 0}
    result, change = contrast.result, contrast.change
    stated = {"direction": contrast.direction, "margin": contrast.stated, "compared": contrast.what}
    interval = {"effect": change.value, "low": change.low, "high": change.high, "n": change.n}
    scatter = {"sd": result.sd, "freedom": result.freedom, "pooled_groups": result.pooled}
    return {"metric": result.metric, **stated, **interval, "unit": result.unit, **scatter}


def answer_text(answer: Answer, blocks: str = "") -> str:
    """``distance_spread +3.1 (1.2 to 5.0), 3 seeds, p for 0.004 after Holm; ...`` of one group.

    Args:
        blocks: the part of the blocks that the claim speaks of, where it names one.
    """
    from fdlab.report.numbers import signed

    effect, change = answer.effect, answer.effect.change
    metric = effect.result.metric
    if answer.verdict == ONE_SEED:
        if not change.bounded or change.low <= 0 <= change.high:
            return f"no clear difference between these two checkpoints: {metric} {signed(metric, change)}"
        return (
            f"these two checkpoints differ by {metric} {signed(metric, change)} on these images; nothing follows about "
            f"the method"
        )
    effects = answer.of(EFFECT)
    part = f" ({blocks} of the blocks)" if blocks else ""
    shown = [f"{each.result.metric}{part} {signed(each.result.metric, each.change)}" for each in effects]
    lent = f" (scatter of {effect.result.pooled} groups together)" if effect.result.pooled > 1 else ""
    parts = [f"{', '.join(shown)}, {change.n} seeds{lent}"]
    if answer.p_holm is not None:
        parts[0] += f", p {answer.side} {p_text(answer.p_holm)} after Holm"
    if answer.verdict == SMALLER:
        parts.append(f"smaller than {effect.stated}")
    if answer.why:
        parts.append(answer.why)
    if answer.verdict == UNDECIDED and math.isfinite(answer.detectable):
        parts.append(_would_have_shown(answer, change.n))
    return "; ".join(parts)


def _would_have_shown(answer: Answer, seeds: int) -> str:
    """The smallest difference of the least clear measure that so many seeds would have shown."""
    from fdlab.report.numbers import signed

    metric = answer.weakest.result.metric
    known = METRICS.get(metric)
    if known and known.low is not None and known.high is not None and answer.detectable > known.high - known.low:
        return f"{seeds} seeds would have shown no possible difference of {metric} (power 0.8)"
    size = signed(metric, Estimate(answer.detectable, math.nan, math.nan)).lstrip("+")
    unit = " decades" if answer.weakest.log else f" {known.unit}" if known and known.unit else ""
    return (
        f"{seeds} seeds would have shown a true difference of {size}{unit} or more in {metric} in four of five studies"
    )


def blocks_of(claim: Claim) -> str:
    """The part of the blocks that a claim names, empty where it names none."""
    return claim.blocks if "blocks" in claim.model_fields_set else ""


def p_text(p: float) -> str:
    """A p-value as text.

    >>> p_text(0.0123), p_text(1e-9)
    ('0.012', 'below 0.0001')
    """
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def untested(verdicts: Sequence[Verdict]) -> list[tuple[str, list[str]]]:
    """What is lacking -> the claims that lack it, each reason once, in the file's order."""
    by_reason: dict[str, list[str]] = {}
    for verdict in verdicts:
        if not verdict.answers:
            by_reason.setdefault(verdict.why, []).append(verdict.claim.id)
    return list(by_reason.items())


def verdict_text(verdict: Verdict) -> str:
    """What all groups say: one sentence where they agree, else each group's own.

    ``supported for contrastive; does not hold for supervised``.
    """
    if not verdict.differs:
        return verdict.verdict
    by_answer: dict[str, list[str]] = {}
    for answer in verdict.answers:
        by_answer.setdefault(answer.verdict, []).append(answer.group)
    return "; ".join(f"{word} for {' and '.join(groups)}" for word, groups in by_answer.items())


def _fact(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the page reads it."""
    answers = verdict.answers
    several, blocks = len(answers) > 1, blocks_of(verdict.claim)
    lines = [
        f"{answer.group}: {answer_text(answer, blocks)}" if several else answer_text(answer, blocks)
        for answer in answers
    ]
    notes = [note for answer in answers for note in answer.not_controlled]
    holm = [answer.p_holm for answer in answers if answer.p_holm is not None]
    return {
        "id": verdict.claim.id,
        "verdict": verdict.verdict,
        "said": verdict_text(verdict),
        "statement": f"{verdict.claim.id}. {verdict.claim.statement}",
        "effect": ". ".join(lines) or verdict.why,
        "answers": [
            {"group": answer.group, "verdict": answer.verdict, "text": answer_text(answer, blocks)}
            for answer in answers
        ],
        "not_controlled": "; ".join(dict.fromkeys(notes)),
        "n": answers[0].effect.change.n if answers else 0,
        "p": min(holm) if holm else None,
    }
