"""What a page says first: at most three answers, each with its question, what limits it, and where it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fdlab.report.facts import Facts
from fdlab.report.findings import by_question

MOST = 3
# The paper's own claim, that distilling makes fine-tuning better, stands first; then verdicts that say something.
FIRST = "H1"
FINE_TUNING = "accuracy"  # the question of findings that does the same
ORDER = ("supported", "holds, not attributable", "does not hold", "smaller than the margin", "undecided", "one seed")


class Answer(NamedTuple):
    """One answer.

    ``question`` in words, ``sentence`` that answers it, ``limit`` what it does not say, ``badge`` at most four words,
    ``place`` the id of the section that shows it.
    """

    question: str
    sentence: str
    limit: str
    badge: str
    place: str


def answers(facts: Facts) -> list[Answer]:
    """Findings where there are some, else the verdicts that say most; none on a page of one model."""
    groups = by_question(facts.findings)
    groups.sort(key=lambda group: str(group[1]["question"]) != FINE_TUNING)  # stable: the others keep their order
    found = [
        Answer(asks, str(first["sentence"]), str(first["limit"]), str(first["badge"]), "all-answers")
        for asks, first, _ in groups
    ]
    return (found or _of_claims(facts))[:MOST]


def _of_claims(facts: Facts) -> list[Answer]:
    judged = [claim for claim in facts.claims if claim.get("verdict") in ORDER]
    judged.sort(
        key=lambda claim: (_name(claim) != FIRST, ORDER.index(str(claim["verdict"])), not _name(claim).startswith("H"))
    )
    made = []
    for claim in judged:
        said = str(claim.get("said") or claim["verdict"])
        several = claim.get("answers") or ()
        effect = str(claim.get("effect", "")).partition(";")[0]
        limit = "Each group of models has its own answer." if len(several) > 1 else effect
        made.append(Answer(str(claim["statement"]), f"{said[:1].upper()}{said[1:]}.", limit, "", "claims"))
    return made


def _name(claim: Mapping[str, Any]) -> str:
    """``H1`` of a claim whose statement begins with it."""
    return str(claim.get("statement", "")).partition(".")[0]
