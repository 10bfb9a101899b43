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
from fdlab.records.metrics import METRICS
from fdlab.records.table import frame
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
    _, facts, group, evidence = gathered(source, others, cohort)
    found = rank(group, evidence, score=score, measures=measures, blocks=blocks, untrained=untrained)
    folder = writable_folder(out or (source.parent if source.suffix == ".csv" else source) / "predict")
    table = frame([*_scores(found), *(row for one in found.ranks for row in _rows(one))])
    label = METRICS[found.score].label if found.score in METRICS else found.score
    said = {
        "title": f"Which measures rank {len(found.scores)} models by their {label}?",
        "question": "Do cheap measures order models as fine-tuning orders them, beyond chance?",
        "notes": [*found.said, _listed(found)],
        "limits": list(LIMITS),
        "command": command,
        "score": label,
    }
    said |= {key: facts[key] for key in ("data", "budget", "options", "versions") if key in facts}
    return {"prediction": found, "table": table, "page": write_report(folder, table, said)}


def _scores(found: Prediction) -> list[dict[str, Any]]:
    return [
        {"model": name, "family": found.families[name], "probe": PROBE, "metric": found.score, "value": value}
        for name, value in found.scores.items()
    ]


def _listed(found: Prediction) -> str:
    order = sorted(found.scores, key=lambda name: -found.scores[name])
    return f"The models by {found.score}: {'; '.join(f'{name} {found.scores[name]:.4g}' for name in order)}."


def _rows(one: Rank) -> list[dict[str, Any]]:
    """A measure's rows; ``objective`` names the measure."""
    same = {"model": "", "probe": PROBE, "objective": one.metric, "n": one.n}
    parts = {
        "kendall_tau": (one.tau, one.low, one.high),
        "kendall_one_out": (one.tau, *one.one_out),
        "kendall_family_out": (one.tau, *one.family_out),
        "kendall_p": (one.p, math.nan, math.nan),
        "kendall_p_holm": (one.p_holm, math.nan, math.nan),
    }
    return [
        {**same, "metric": metric, "value": value, "low": low, "high": high}
        for metric, (value, low, high) in parts.items()
    ]


def readable(found: Prediction) -> pd.DataFrame:
    """For a terminal: one line a measure, clearest first."""
    return pd.DataFrame(
        {
            "measure": one.metric,
            "probe": one.probe,
            "models": one.n,
            "tau-b (95 %)": f"{one.tau:+.2f} ({one.low:+.2f} to {one.high:+.2f})",
            "without one model": _range(one.one_out),
            "without one family": _range(one.family_out),
            "p": f"{one.p:.2g}",
            "p (Holm)": f"{one.p_holm:.2g}",
            "verdict": one.verdict,
        }
        for one in found.ranks
    )


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if all(map(math.isfinite, ends)) else "–"
