"""The factorial study in words: the premise, what was seen where, the README beside the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fdlab.experiments.two_factors import KINDS, Cell
from fdlab.report.report import Report

PREMISE = "premise"
# A teacher is called global or alike where one of these moved this way from its untrained start.
SIGNS = {"r2_absolute": 1, "nmi": -1, "head_similarity": 1}
WORDS = {
    "r2_absolute": "more key-only maps",
    "nmi": "less dependence on the query",
    "head_similarity": "heads more alike",
}


def premises(table: pd.DataFrame) -> list[dict[str, Any]]:
    """For the verdict strip: whether each teacher's deep maps are global or alike, against its untrained start."""
    own = table[table["probe"] == PREMISE]
    found = []
    for kind in KINDS:
        label = Cell(kind, "plain").label
        group = own[own["model"] == label]
        seen = [WORDS[row["metric"]] for _, row in group.iterrows() if _sign(row) == SIGNS[row["metric"]]]
        numbers = ", ".join(f"{row['metric']} {_signed(row)}" for _, row in group.iterrows())
        n = int(group["n"].max()) if len(group) else 0
        if group.empty or group["low"].isna().all():
            verdict, words = "not tested", f"{n} seed{'s' if n != 1 else ''}, no interval"
        elif seen:
            verdict, words = "supported", f"{numbers}, {n} seeds: {', '.join(seen)}"
        else:
            verdict, words = "undecided", f"{numbers}, {n} seeds: not seen in any of {len(group)} measures"
        statement = f"Premise: the deep maps of the {kind} teacher are the same for every query, or alike over heads."
        uncorrected = "three measures, none corrected for the others"
        found.append({"verdict": verdict, "statement": statement, "effect": words, "not_controlled": uncorrected})
    return found


def two_way_notes(table: pd.DataFrame) -> list[str]:
    """One sentence an effect: in how many measures it is told from 0, and in which direction for which kind."""
    from fdlab.report.figures.two_way import effects as of_groups
    from fdlab.report.figures.two_way import title_of

    own = of_groups(table)
    said = []
    for effect in ("design", "distillation", "interaction"):
        kept = own[(own["reference"] == effect) & own["low"].notna()]
        parts = []
        for kind, group in kept.groupby("model", sort=False):
            moved = [("", "higher ", "lower ")[_sign(row)] + title_of(row) for _, row in group.iterrows() if _sign(row)]
            parts += [f"{kind}: {', '.join(moved)}"] if moved else []
        if len(kept):
            where = "; ".join(parts) if parts else "nowhere"
            count = sum(bool(_sign(row)) for _, row in kept.iterrows())
            said.append(
                f"Effect of the {effect}, told from 0 in {count} of {len(kept)} measures and kinds (about "
                f"{max(1, round(len(kept) / 20))} would be by chance): {where}."
            )
    return said


def _sign(row: Mapping[str, Any] | pd.Series) -> int:
    """1 or -1 where the interval leaves out 0, else 0 (also without interval)."""
    if pd.isna(row["low"]):
        return 0
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _signed(row: Mapping[str, Any] | pd.Series) -> str:
    bounds = "" if pd.isna(row["low"]) else f" ({row['low']:+.3g} to {row['high']:+.3g})"
    return f"{row['value']:+.3g}{bounds}"


def as_markdown(report: Report) -> str:
    """The report for those who read it without a browser."""
    from fdlab.report.figures import figure_of

    facts = report.facts.written
    lines = [f"# {facts['title']}", "", facts["question"], ""]
    lines += [f"Made by `{facts['command']}`; what was decided before is in `plan.md`, the whole page is `index.html`."]
    lines += ["", *(f"- {note}" for note in facts["notes"]), ""]
    claims = [*facts["premises"], *facts["claims"]]
    tested = [claim for claim in claims if claim["verdict"] != "not tested"]
    lines += [f"## Claims ({len(claims) - len(tested)} more cannot be tested here: `claims.csv`)", ""]
    lines += [f"- {claim['statement']} **{claim['verdict'].capitalize()}**: {claim['effect']}." for claim in tested]
    for figure in ("two_way", "trainability"):
        subject = figure_of(figure, report)
        if not subject.present:
            continue
        numbers = subject.numbers()
        lines += ["", f"## {subject.title}", "", f"![{figure}](figures/{figure}.png)", ""]
        lines += [" ".join(subject.caption()), ""]
        lines += ["| " + " | ".join(numbers.columns) + " |", "|" + "---|" * len(numbers.columns)]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in numbers.itertuples(index=False)]
    lines += ["", "An interval is a 95 % t-interval over seeds; * leaves out 0.", ""]
    return "\n".join(lines)


def ranking(report: Report) -> str:
    """Which cheap measures order the models as their fine-tuning does: the report in ``predict/``, in short."""
    from fdlab.report.figures import figure_of

    subject = figure_of("prediction", report)
    lines = [f"## {subject.title}", "", "![prediction](predict/figures/prediction.png)", ""]
    lines += [" ".join(subject.caption()), ""]
    return "\n".join(
        [*lines, "Models are means over seeds; students and teachers are related, not independent draws.", ""]
    )


def limits_of(facts: Mapping[str, Any]) -> list[str]:
    """What the study cannot show, as the end of its README."""
    return ["## What this cannot show", "", *(f"- {limit}" for limit in facts["limits"])]
