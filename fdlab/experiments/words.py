"""A two-factor study in words: the premise, which effects were seen where, the README beside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fdlab.experiments.two_factors import KINDS, Cell
from fdlab.records.estimate import Estimate
from fdlab.records.table import markdown_lines
from fdlab.report.figures import figure_of
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
    rows = table[table["probe"] == PREMISE]
    results = []
    for kind in KINDS:
        group = rows[rows["model"] == Cell(kind, "plain").label]
        seen = [WORDS[row["metric"]] for _, row in group.iterrows() if sign(row) == SIGNS[row["metric"]]]
        numbers = ", ".join(f"{row['metric']} {signed(_estimate(row))}" for _, row in group.iterrows())
        n = int(group["n"].max()) if len(group) else 0
        if group.empty or group["low"].isna().all():
            verdict, words = "not tested", f"{n} seed{'s' if n != 1 else ''}, no interval"
        elif seen:
            verdict, words = "supported", f"{numbers}, {n} seeds: {', '.join(seen)}"
        else:
            verdict, words = "undecided", f"{numbers}, {n} seeds: not seen in any of {len(group)} measures"
        statement = f"Premise: the deep maps of the {kind} teacher are the same for every query, or alike over heads."
        uncorrected = "three measures, none corrected for the others"
        results.append({"verdict": verdict, "statement": statement, "effect": words, "not_controlled": uncorrected})
    return results


def two_way_notes(table: pd.DataFrame) -> list[str]:
    """One sentence an effect: in how many measures its interval leaves out 0, and in which direction by kind."""
    from fdlab.report.figures.two_way import effects as of_groups
    from fdlab.report.figures.two_way import title_of

    rows, notes = of_groups(table), []
    for effect in ("design", "distillation", "interaction"):
        kept = rows[(rows["reference"] == effect) & rows["low"].notna()]
        parts = []
        for kind, group in kept.groupby("model", sort=False):
            moved = [("", "higher ", "lower ")[sign(row)] + title_of(row) for _, row in group.iterrows() if sign(row)]
            parts += [f"{kind}: {', '.join(moved)}"] if moved else []
        if len(kept):
            count = sum(bool(sign(row)) for _, row in kept.iterrows())
            notes.append(
                f"Effect of the {effect}, told from 0 in {count} of {len(kept)} measures and kinds (about "
                f"{max(1, round(len(kept) / 20))} would be by chance): {'; '.join(parts) or 'nowhere'}."
            )
    return notes


def sign(row: Mapping[str, Any] | pd.Series) -> int:
    """1 or -1 where the interval leaves out 0, else 0 (also without interval)."""
    if pd.isna(row["low"]):
        return 0
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


def _estimate(row: Mapping[str, Any] | pd.Series) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"])


def signed(change: Estimate, form: str = "+.3g", scale: float = 1.0, remark: str = "") -> str:
    """A difference with its sign and, where it is known, its interval, in which ``remark`` stands too.

    >>> signed(Estimate(0.27, 0.2512, 0.28), remark=", paired")
    '+0.27 (+0.251 to +0.28, paired)'
    >>> signed(Estimate(-0.5, float("nan"), float("nan")))
    '-0.5'
    """
    value, low, high = (f"{scale * float(number):{form}}" for number in change[:3])
    return f"{value} ({low} to {high}{remark})" if change.bounded else value


# --- the README ----------------------------------------------------------------------------------------


def as_markdown(report: Report) -> str:
    """The report for those who read it without a browser."""
    facts = report.facts.written
    where = "what was decided before is in `plan.md`, the whole page is `index.html`."
    lines = opening(facts, f"Made by `{facts['command']}`; {where}")
    lines += claim_lines([*facts["premises"], *facts["claims"]])
    for figure in ("two_way", "trainability"):
        subject = figure_of(figure, report)
        if subject.present:
            lines += ["", f"## {subject.title}", "", *figure_lines(figure, report), *markdown_lines(subject.numbers())]
    return "\n".join([*lines, "", "An interval is a 95 % t-interval over seeds; * leaves out 0.", ""])


def opening(facts: Mapping[str, Any], origin: str) -> list[str]:
    """Title, question, how the report was made, and the notes."""
    notes = [f"- {note}" for note in facts["notes"]]
    return [f"# {facts['title']}", "", facts["question"], "", origin, "", *notes, ""]


def claim_lines(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims that were tested, and the number of those that were not."""
    tested = [claim for claim in claims if claim["verdict"] != "not tested"]
    lines = [f"## Claims ({len(claims) - len(tested)} more cannot be tested here: `claims.csv`)", ""]
    return lines + [
        f"- {claim['statement']} **{claim['verdict'].capitalize()}**: {claim['effect']}." for claim in tested
    ]


def figure_lines(figure: str, report: Report, folder: str = "") -> list[str]:
    """A figure of the report in ``folder``, with its caption."""
    return [f"![{figure}]({folder}figures/{figure}.png)", "", " ".join(figure_of(figure, report).caption()), ""]


def ranking(report: Report) -> str:
    """Which cheap measures order the models as their fine-tuning does: the report in ``predict/``, in short."""
    lines = [f"## {figure_of('prediction', report).title}", "", *figure_lines("prediction", report, "predict/")]
    last = "Models are means over seeds; students and teachers are related, not independent draws."
    return "\n".join([*lines, last, ""])


def limits_of(facts: Mapping[str, Any]) -> list[str]:
    """What the study cannot show, as the end of its README."""
    return ["## What this cannot show", "", *(f"- {limit}" for limit in facts["limits"])]
