"""``fdlab claims``: the claims of a file judged by a report's table and records, and written into the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.compare.claims import Contrast, Verdict, judge
from fdlab.compare.cohort import Cohort, checked, read_cohort
from fdlab.compare.evidence import Evidence, records_under, scores_of
from fdlab.compare.hypotheses import packaged_claims, read_claims
from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import replacing
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
    """Judges and writes ``claims.csv`` (a row a claim), ``contrasts.csv`` (a row a comparison) and the page.

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
    tables = [report.table, *(read_report(other).table for other in others)]
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
    """One row a claim; the effect is that of its first deciding measure, its interval uncorrected."""
    import pandas as pd

    return pd.DataFrame(
        {
            "id": verdict.claim.id,
            "verdict": verdict.verdict,
            "scope": verdict.scope,
            "statement": verdict.claim.statement,
            **_effect(verdict.effect),
            "p": verdict.p if verdict.effect else math.nan,
            "p_holm": math.nan if verdict.p_holm is None else verdict.p_holm,
            "why": verdict.why,
            "not_controlled": "; ".join(verdict.not_controlled),
            "by_group": _by_group(verdict.effect.result.by_group) if verdict.effect else "",
            "source": verdict.claim.source,
        }
        for verdict in verdicts
    )


def contrasts_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison: effects, controls, and what stands beside without a part in the verdict."""
    import pandas as pd

    rows = [
        {
            "id": verdict.claim.id,
            "role": contrast.role,
            **_effect(contrast),
            "p_for": contrast.p[0],
            "p_against": contrast.p[1],
            "by_group": _by_group(contrast.result.by_group),
        }
        for verdict in verdicts
        for contrast in verdict.contrasts
    ]
    return pd.DataFrame(rows, columns=["id", "role", *_effect(None), "p_for", "p_against", "by_group"])


def _effect(contrast: Contrast | None) -> dict[str, Any]:
    """The columns of one comparison; empty where nothing was tested."""
    if contrast is None:
        unknown = dict.fromkeys(("effect", "low", "high"), math.nan)
        return {"metric": "", "direction": "", "smallest": math.nan, "compared": "", **unknown, "n": 0, "unit": ""}
    result, change = contrast.result, contrast.change
    stated = {"direction": contrast.direction, "smallest": contrast.smallest, "compared": contrast.what}
    interval = {"effect": change.value, "low": change.low, "high": change.high, "n": change.n}
    return {"metric": result.metric, **stated, **interval, "unit": result.unit}


def _by_group(values: dict[str, float]) -> str:
    return "; ".join(f"{group} {value:+.4g}" for group, value in values.items())


def effect_text(verdict: Verdict) -> str:
    """``distance_spread +3.1 (1.2 to 5.0), 3 seeds, p 0.004 after Holm``; empty where nothing was tested."""
    from fdlab.report.numbers import signed

    effect = verdict.effect
    if effect is None or verdict.p_holm is None:
        return ""
    metric, change = effect.result.metric, effect.change
    unit = "test samples" if effect.result.unit == "intervals" else effect.result.unit
    return f"{metric} {signed(metric, change)}, {change.n} {unit}, p {p_text(verdict.p_holm)} after Holm"


def p_text(p: float) -> str:
    """A p-value as text.

    >>> p_text(0.0123), p_text(1e-9)
    ('0.012', 'below 0.0001')
    """
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def _fact(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the page reads it."""
    return {
        "id": verdict.claim.id,
        "verdict": verdict.verdict,
        "scope": verdict.scope,
        "statement": f"{verdict.claim.id}. {verdict.claim.statement}",
        "effect": "; ".join(part for part in (effect_text(verdict), verdict.why) if part),
        "not_controlled": "; ".join(verdict.not_controlled),
        "n": verdict.effect.change.n if verdict.effect else 0,
        "p": verdict.p_holm,
    }
