"""``fdlab rank``: which cheap measures rank models as their fine-tuning does; a report of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.compare.cohort import Cohort
from fdlab.compare.rank import Rank, Ranking
from fdlab.compare.rank import rank as ranked
from fdlab.records.atomic import writable_folder
from fdlab.records.metrics import METRICS
from fdlab.records.table import frame
from fdlab.report.report import Report
from fdlab.study.publish import write_report
from fdlab.study.verdicts import gathered

PROBE = "rank"
LIMITS = (
    "Ranks hold among models like these: another method, data set or fine-tuning budget can order them differently.",
    "A measure that ranks models is no cause of how they fine-tune.",
    "The interval takes lineages as drawn at random from some population, which published models are not.",
    "Lineages that share designs are related through them too: an order within lineages may be one of the designs.",
)


def rank(
    source: Path | str,
    others: Sequence[Path | str] = (),
    *,
    cohort: Path | str | Cohort | None = None,
    score: str = "",
    measures: Sequence[str] = (),
    blocks: str = "last half",
    untrained: bool = False,
    out: Path | str | None = None,
    command: str = "fdlab rank",
    again: bool = False,
) -> dict[str, Any]:
    """Ranks the measures of a report against the models' fine-tuning score and writes a report.

    Args:
        source: a report's folder or a table.csv; ``others``: more of the same models, e.g. of their fine-tunings.
        cohort: scores and lineages, by default as ``fdlab compare`` kept them.
        score, measures, blocks, untrained: see ``compare.rank.rank``.
        out: folder of the report; by default ``rank`` in the source.
        again: draw the report also where nothing has changed.

    Returns:
        ``ranking``, ``table``, ``page``.

    Raises:
        FdlabError: code 2, no scores, no such measure, a circle of parents; 3, a table is damaged.
    """
    source = Path(source)
    report, group, evidence = gathered(source, others, cohort)
    result = ranked(group, evidence, score=score, measures=measures, blocks=blocks, untrained=untrained)
    folder = writable_folder(out or (source.parent if source.suffix == ".csv" else source) / "rank")
    table = frame([*_scores(result), *(row for measure in result.ranks for row in _rows(measure))])
    label = METRICS[result.score].label if result.score in METRICS else result.score
    facts = {
        "title": f"Which measures rank {len(result.scores)} models by their {label}?",
        "question": "Do cheap measures order models as fine-tuning orders them, beyond chance and beyond descent?",
        "notes": [*result.notes, _listed(result)],
        "limits": list(LIMITS),
        "command": command,
        "score": label,
    }
    known = report.facts.written
    facts |= {key: known[key] for key in ("data", "budget", "options", "versions") if key in known}
    return {"ranking": result, "table": table, "page": write_report(folder, Report(table, facts), again=again)}


def _scores(result: Ranking) -> list[dict[str, Any]]:
    return [
        {"model": name, "family": result.families[name], "probe": PROBE, "metric": result.score, "value": value}
        for name, value in result.scores.items()
    ]


def _listed(result: Ranking) -> str:
    order = sorted(result.scores, key=lambda name: -result.scores[name])
    return f"The models by {result.score}: {'; '.join(f'{name} {result.scores[name]:.4g}' for name in order)}."


def _rows(measure: Rank) -> list[dict[str, Any]]:
    """A measure's rows; ``objective`` names the measure, ``n`` counts lineages, or the pairs within them."""
    inside, alone = measure.within, {"low": math.nan, "high": math.nan}
    between = {
        "kendall_tau": {"value": measure.tau, "low": measure.low, "high": measure.high},
        "kendall_lineage_out": {"value": measure.tau, "low": measure.without[0], "high": measure.without[1]},
        "kendall_p": {"value": measure.p, **alone},
        "kendall_p_holm": {"value": measure.p_holm, **alone},
    }
    pairs = {
        "kendall_within": inside.tau,
        "kendall_concordant": inside.concordant,
        "kendall_discordant": inside.discordant,
        "kendall_within_p": inside.p,
        "kendall_within_p_holm": measure.within_holm,
    }
    same = {"model": "", "probe": PROBE, "objective": measure.metric}
    rows = [{**same, "metric": metric, "n": measure.lineages, **numbers} for metric, numbers in between.items()]
    if inside.pairs:
        rows += [{**same, "metric": name, "n": inside.pairs, "value": value, **alone} for name, value in pairs.items()]
    return rows


def readable(result: Ranking) -> pd.DataFrame:
    """For a terminal: one line a measure, clearest first."""
    return pd.DataFrame(
        {
            "measure": measure.metric,
            "probe": measure.probe,
            "models": measure.models,
            "lineages": measure.lineages,
            "tau-b (95 %)": f"{measure.tau:+.2f} ({measure.low:+.2f} to {measure.high:+.2f})"
            if math.isfinite(measure.tau)
            else "–",
            "without one lineage": _range(measure.without),
            "within lineages": _within(measure),
            "p (Holm)": f"{measure.p_holm:.2g}",
            "verdict": measure.verdict,
        }
        for measure in result.ranks
    )


def _within(measure: Rank) -> str:
    """Tau inside lineages with the pairs that are ordered alike and the other way round."""
    inside = measure.within
    return f"{inside.tau:+.2f} ({inside.concordant}:{inside.discordant})" if math.isfinite(inside.tau) else "–"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if all(map(math.isfinite, ends)) else "–"
