"""``fdlab claims``: the claims of a file judged by a report's table and records, and written into the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdlab.compare.claims import Verdict, judge
from fdlab.compare.cohort import Cohort, checked, read_cohort
from fdlab.compare.evidence import Evidence, records_under, scores_of
from fdlab.compare.hypotheses import packaged_claims, read_claims
from fdlab.errors import USAGE, FdlabError
from fdlab.records.atomic import replacing
from fdlab.report.folder import read_report
from fdlab.study.publish import rewrite_page

if TYPE_CHECKING:
    import pandas as pd

CONTRASTS = (
    *("id", "role", "metric", "direction", "smallest", "compared", "effect", "low", "high", "n", "unit"),
    *("p_for", "p_against", "by_group"),
)


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
    table, facts, group, evidence = gathered(source, others, cohort)
    chosen = packaged_claims() if file is None else read_claims(file, evidence.metrics())
    verdicts = judge(chosen, group, evidence)
    said = [_fact(one) for one in verdicts]
    folder = Path(source).parent if Path(source).suffix == ".csv" else Path(source)
    page = None
    if folder == Path(source):
        page = rewrite_page(folder, table, facts | {"claims": said})
    found, parts = claims_table(verdicts), contrasts_table(verdicts)
    for name, rows in (("claims.csv", found), ("contrasts.csv", parts)):
        with replacing(folder / name) as draft:
            rows.to_csv(draft, index=False, float_format="%.10g")
    return {"verdicts": verdicts, "facts": said, "table": found, "files": [folder / "claims.csv"], "page": page}


def gathered(
    source: Path | str, others: Sequence[Path | str], cohort: Path | str | Cohort | None
) -> tuple[pd.DataFrame, dict[str, Any], Cohort, Evidence]:
    """The report's table and facts, its cohort, and all that is known of the cohort's models.

    Raises:
        FdlabError: code 2, no cohort, or one whose models no table knows; 3, a table is absent or damaged.
    """
    table, facts = read_report(source)
    group = _cohort(cohort, facts, source)
    tables = [table, *(read_report(other)[0] for other in others)]
    records: dict[tuple[str, str], Path] = {}
    for place in (source, *others):
        records |= records_under(Path(place)) if Path(place).is_dir() else {}
    evidence = Evidence(tables, records, scores_of(group))
    known = set(evidence.table["model"])
    if not known & set(group.labels()):
        raise FdlabError(
            "No model of the cohort is in the table.",
            f"Cohort: {', '.join(group.labels()[:6])}. Table: {', '.join(sorted(known)[:6])}.",
            "Labels must be the same in both.",
            code=USAGE,
        )
    return table, facts, group, evidence


def _cohort(given: Path | str | Cohort | None, facts: dict[str, Any], source: Path | str) -> Cohort:
    if isinstance(given, Cohort):
        return checked(given)
    if given is not None:
        return read_cohort(given)
    if not facts.get("cohort"):
        raise FdlabError(
            f"{source} does not say which model is whose teacher or control.",
            "Only reports of `fdlab compare` keep their cohort.",
            "Give --cohort FILE (label, source, family, design, pair_of, control, seed of each model).",
            code=USAGE,
        )
    return checked(Cohort.model_validate({"model": facts["cohort"]}))


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a claim; the effect is that of its first deciding measure, its interval uncorrected."""
    import pandas as pd

    rows = []
    for one in verdicts:
        effect = one.effect
        change = effect.change if effect else None
        rows.append(
            {
                "id": one.claim.id,
                "verdict": one.verdict,
                "scope": one.scope,
                "statement": one.claim.statement,
                "metric": effect.found.metric if effect else "",
                "direction": effect.direction if effect else "",
                "smallest": effect.smallest if effect else math.nan,
                "compared": effect.what if effect else "",
                "effect": change.value if change else math.nan,
                "low": change.low if change else math.nan,
                "high": change.high if change else math.nan,
                "n": change.n if change else 0,
                "unit": effect.found.unit if effect else "",
                "p": one.p if effect else math.nan,
                "p_holm": math.nan if one.p_holm is None else one.p_holm,
                "why": one.why,
                "not_controlled": "; ".join(one.not_controlled),
                "by_group": _by_group(effect.found.by_group) if effect else "",
                "source": one.claim.source,
            }
        )
    return pd.DataFrame(rows)


def contrasts_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a comparison: effects, controls, and what stands beside without a part in the verdict."""
    import pandas as pd

    rows = [
        {
            "id": one.claim.id,
            "role": contrast.role,
            "metric": contrast.found.metric,
            "direction": contrast.direction,
            "smallest": contrast.smallest,
            "compared": contrast.what,
            "effect": contrast.change.value,
            "low": contrast.change.low,
            "high": contrast.change.high,
            "n": contrast.change.n,
            "unit": contrast.found.unit,
            "p_for": contrast.p[0],
            "p_against": contrast.p[1],
            "by_group": _by_group(contrast.found.by_group),
        }
        for one in verdicts
        for contrast in one.contrasts
    ]
    return pd.DataFrame(rows, columns=list(CONTRASTS))


def _by_group(values: dict[str, float]) -> str:
    return "; ".join(f"{group} {value:+.4g}" for group, value in values.items())


def effect_text(one: Verdict) -> str:
    """``distance_spread +3.1 (1.2 to 5.0), 3 seeds, p 0.004 after Holm``; empty where nothing was tested."""
    from fdlab.report.pairs import signed

    effect = one.effect
    if effect is None or one.p_holm is None:
        return ""
    change = effect.change
    number = signed(effect.found.metric, change.value, change.low, change.high)
    return f"{effect.found.metric} {number}, {change.n} {_unit(effect.found.unit)}, p {p_text(one.p_holm)} after Holm"


def p_text(p: float) -> str:
    """``0.012``, ``below 0.0001``."""
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def _unit(unit: str) -> str:
    return "test samples" if unit == "intervals" else unit


def _fact(one: Verdict) -> dict[str, Any]:
    """A verdict as the page reads it."""
    effect = one.effect
    text = "; ".join(part for part in (effect_text(one), one.why) if part)
    return {
        "id": one.claim.id,
        "verdict": one.verdict,
        "scope": one.scope,
        "statement": f"{one.claim.id}. {one.claim.statement}",
        "effect": text,
        "not_controlled": "; ".join(one.not_controlled),
        "n": effect.change.n if effect else 0,
        "p": one.p_holm,
    }
