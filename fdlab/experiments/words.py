"""A two-factor study in words: which effects were seen where, the README beside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fdlab.compare.two_way import EFFECTS
from fdlab.records.estimate import Estimate
from fdlab.records.table import markdown_lines
from fdlab.report.figures import figure_of
from fdlab.report.report import Report


def two_way_notes(table: pd.DataFrame) -> list[str]:
    """One sentence an effect: what of it survives the correction over the whole table, by kind and direction."""
    from fdlab.report.figures.two_way import SAID, effects, surviving

    rows, notes = effects(table), []
    clear = list(surviving(table))
    for effect in EFFECTS:
        tested = int((rows["reference"] == effect).sum() and rows[rows["reference"] == effect]["holm"].notna().sum())
        if not tested:
            continue
        mine = [(kind, title, row) for name, kind, title, row in clear if name == effect]
        parts = []
        for kind in dict.fromkeys(kind for kind, *_ in mine):
            moved = [
                f"{'higher' if row['value'] > 0 else 'lower'} {title}" for other, title, row in mine if other == kind
            ]
            parts.append(f"{kind}: {', '.join(moved)}")
        said = SAID[effect]
        notes.append(
            f"{said[:1].upper()}{said[1:]}: {len(mine)} of {tested} measures and kinds survive the correction"
            f"{': ' + '; '.join(parts) if parts else ''}."
        )
    return notes


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
    lines += claim_lines(facts["claims"])
    for figure in ("two_way", "trainability"):
        subject = figure_of(figure, report)
        if subject.present:
            lines += ["", f"## {subject.title}", "", *figure_lines(figure, report), *markdown_lines(subject.numbers())]
    return "\n".join(
        [*lines, "", "An interval is a 95 % t-interval over seeds; * survives Holm's correction over all effects.", ""]
    )


def opening(facts: Mapping[str, Any], origin: str) -> list[str]:
    """Title, question, how the report was made, and the notes."""
    notes = [f"- {note}" for note in facts["notes"]]
    return [f"# {facts['title']}", "", facts["question"], "", origin, "", *notes, ""]


def claim_lines(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims that were tested, group by group, and the number of those that were not."""
    tested = [claim for claim in claims if claim["verdict"] != "not tested"]
    lines = [f"## Claims ({len(claims) - len(tested)} more cannot be tested here: `claims.csv`)", ""]
    for claim in tested:
        if len(claim["answers"]) == 1:
            lines.append(f"- {claim['statement']} **{claim['verdict'].capitalize()}**: {claim['effect']}.")
            continue
        lines.append(f"- {claim['statement']} **{claim['said'][:1].upper()}{claim['said'][1:]}**.")
        lines += [f"  - {answer['group']}: *{answer['verdict']}*. {answer['text']}." for answer in claim["answers"]]
    return lines


def figure_lines(figure: str, report: Report, folder: str = "") -> list[str]:
    """A figure of the report in ``folder``, with its caption."""
    return [f"![{figure}]({folder}figures/{figure}.png)", "", " ".join(figure_of(figure, report).caption()), ""]


def ranking(report: Report) -> str:
    """Which cheap measures order the models as their fine-tuning does: the report in ``rank/``, in short."""
    lines = [f"## {figure_of('ranking', report).title}", "", *figure_lines("ranking", report, "rank/")]
    return "\n".join([*lines, *(f"- {note}" for note in report.facts.notes), ""])


def limits_of(facts: Mapping[str, Any]) -> list[str]:
    """What the study cannot show, as the end of its README."""
    return ["## What this cannot show", "", *(f"- {limit}" for limit in facts["limits"])]
