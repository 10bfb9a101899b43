"""``fdlab predict``: which cheap measures rank models as their fine-tuning does; a report of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fdlab.compare.cohort import Cohort
from fdlab.compare.predict import Prediction, Rank
from fdlab.compare.predict import predict as rank
from fdlab.records.atomic import writable_folder
from fdlab.records.estimate import Estimate
from fdlab.records.metrics import METRICS
from fdlab.records.table import frame
from fdlab.report.report import Report
from fdlab.study.publish import write_report
from fdlab.study.verdicts import gathered

PROBE = "predict"
LIMITS = (
    "Ranks hold among models like these: another family, data set or fine-tuning budget can order them differently.",
    "A measure that ranks models is no cause of how they fine-tune.",
    "The interval takes models as drawn at random from some population, which published models are not.",
)


def predict(
    source: Path | str,
    others: Sequence[Path | str] = (),
    *,
    cohort: Path | str | Cohort | None = None,
    score: str = "",
    measures: Sequence[str] = (),
    blocks: str = "last half",
    untrained: bool = False,
    out: Path | str | None = None,
    command: str = "fdlab predict",
) -> dict[str, Any]:
    """Ranks the measures of a report against the models' fine-tuning score and writes a report.

    Args:
        source: a report's folder or a table.csv; ``others``: more of the same models, e.g. of their fine-tunings.
        cohort: scores and families, by default as ``fdlab compare`` kept them.
        score, measures, blocks, untrained: see ``compare.predict.predict``.
        out: folder of the report; by default ``predict`` in the source.

    Returns:
        ``prediction``, ``table``, ``page``.

    Raises:
        FdlabError: code 2, no scores, no such measure; 3, a table is damaged.
    """
    source = Path(source)
    report, group, evidence = gathered(source, others, cohort)
    result = rank(group, evidence, score=score, measures=measures, blocks=blocks, untrained=untrained)
    folder = writable_folder(out or (source.parent if source.suffix == ".csv" else source) / "predict")
    table = frame([*_scores(result), *(row for measure in result.ranks for row in _rows(measure))])
    label = METRICS[result.score].label if result.score in METRICS else result.score
    facts = {
        "title": f"Which measures rank {len(result.scores)} models by their {label}?",
        "question": "Do cheap measures order models as fine-tuning orders them, beyond chance?",
        "notes": [*result.notes, _listed(result)],
        "limits": list(LIMITS),
        "command": command,
        "score": label,
    }
    known = report.facts.written
    facts |= {key: known[key] for key in ("data", "budget", "options", "versions") if key in known}
    return {"prediction": result, "table": table, "page": write_report(folder, Report(table, facts))}


def _scores(result: Prediction) -> list[dict[str, Any]]:
    return [
        {"model": name, "family": result.families[name], "probe": PROBE, "metric": result.score, "value": value}
        for name, value in result.scores.items()
    ]


def _listed(result: Prediction) -> str:
    order = sorted(result.scores, key=lambda name: -result.scores[name])
    return f"The models by {result.score}: {'; '.join(f'{name} {result.scores[name]:.4g}' for name in order)}."


def _rows(measure: Rank) -> list[dict[str, Any]]:
    """A measure's rows; ``objective`` names the measure."""
    same = {"model": "", "probe": PROBE, "objective": measure.metric, "n": measure.n}
    parts = {
        "kendall_tau": Estimate(measure.tau, measure.low, measure.high),
        "kendall_one_out": Estimate(measure.tau, *measure.one_out),
        "kendall_family_out": Estimate(measure.tau, *measure.family_out),
        "kendall_p": Estimate(measure.p, math.nan, math.nan),
        "kendall_p_holm": Estimate(measure.p_holm, math.nan, math.nan),
    }
    return [{**same, "metric": metric, **estimate.row} for metric, estimate in parts.items()]


def readable(result: Prediction) -> pd.DataFrame:
    """For a terminal: one line a measure, clearest first."""
    return pd.DataFrame(
        {
            "measure": measure.metric,
            "probe": measure.probe,
            "models": measure.n,
            "tau-b (95 %)": f"{measure.tau:+.2f} ({measure.low:+.2f} to {measure.high:+.2f})",
            "without one model": _range(measure.one_out),
            "without one family": _range(measure.family_out),
            "p": f"{measure.p:.2g}",
            "p (Holm)": f"{measure.p_holm:.2g}",
            "verdict": measure.verdict,
        }
        for measure in result.ranks
    )


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if all(map(math.isfinite, ends)) else "–"
