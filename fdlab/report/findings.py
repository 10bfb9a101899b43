"""The sentences of findings: what ``compare/findings.py`` found, in words that say no more than its interval.

One rule, one sentence. With one training of each model a sentence speaks of these checkpoints; only several trainings
let it speak of the models. The words of measures and questions are in findings.toml.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any

from fdlab.compare.findings import Finding
from fdlab.compare.questions import BASELINE, CONTROL, TEACHER
from fdlab.records.metrics import METRICS
from fdlab.report.captions import listed

FEW_IMAGES = 32  # below it every sentence says how few there are
IN_POINTS = ("accuracy", "linear_probe", "knn", "teacher_r2")  # shares that are spoken of in per cent and points


def worded(found: Sequence[Finding]) -> list[Finding]:
    """The findings with their sentence, what limits it, and their badge."""
    return [replace(f, sentence=_sentence(f), limit=METRICS[f.metric].not_says, badge=_badge(f)) for f in found]


def asks(question: str) -> str:
    """The question in words."""
    return str(_words()["question"][question])


def by_question(facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], list[Mapping[str, Any]]]]:
    """(question in words, the headline, what stands below it) of findings as ``facts.json`` keeps them, in order."""
    groups = [(name, list(group)) for name, group in groupby(facts, lambda fact: str(fact["question"]))]
    return [(asks(name), group[0], group[1:]) for name, group in groups]


def scope(facts: Sequence[Mapping[str, Any]]) -> str:
    """What all intervals of the findings are over, said once; empty without findings."""
    trainings = sorted({int(fact["trainings"]) for fact in facts})
    if not trainings:
        return ""
    if trainings == [1]:
        return "Intervals are 95 % over images, not over repeated trainings."
    several = listed([str(count) for count in trainings if count > 1])
    alone = "; those of models trained once are over images alone" if 1 in trainings else ""
    return f"Intervals are 95 % over {several} trainings, paired by seed{alone}."


@cache
def _words() -> dict[str, dict[str, str]]:
    return tomllib.loads(resources.files("fdlab.report").joinpath("findings.toml").read_text(encoding="utf-8"))


# --- sentences -------------------------------------------------------------------------------------------


def _sentence(f: Finding) -> str:
    text = _RULES[f.rule](f)
    if f.rule in ("numbers", "undefined"):
        return text
    if f.trainings == 2:
        return f"With only 2 trainings: {text}"
    return f"With only {f.images} images: {text}" if f.images < FEW_IMAGES else text


def _differs(f: Finding) -> str:
    words, upwards = _words()[f.metric], f.change.value > 0
    value, low, high = _numbers(f, 1 if upwards else -1)
    clause = words["more" if upwards else "less"].format(A=f.reference, B=f.model, d=f"{value}{words['unit']}")
    seeds = f", {f.trainings} trainings each" if f.trainings > 1 else ""
    text = f"{clause} ({low} to {high}{seeds}{_unpaired(f)})"
    if f.start:
        differs = "differs" if f.start == "as much" else "may differ"
        text += f"; the untrained start of {f.model} {differs} from {f.reference} as much, so the training of "
        text += f"{f.reference} may be what shows here, and not that of {f.model}"
    return f"{_capital(text)}." if f.trainings > 1 else f"In these checkpoints, {text}."


def _unclear(f: Finding) -> str:
    _, low, high = _numbers(f)
    return (
        f"No clear difference between {f.reference} and {f.model} in {_subject(f)}: "
        f"{low} to {high}{_unit(f)} is possible ({_minus(f)}{_unpaired(f)})."
    )


def _uncorrected(f: Finding) -> str:
    """The interval leaves out 0, but not after correction: no difference is stated."""
    _, low, high = _numbers(f)
    return (
        f"No clear difference between {f.reference} and {f.model} in {_subject(f)} after correction for "
        f"{f.comparisons} comparisons; alone, this one would be {low} to {high}{_unit(f)} ({_minus(f)}{_unpaired(f)})."
    )


def _unclear_all(f: Finding) -> str:
    others = [name for name in f.models if name != f.reference]
    who = {
        TEACHER: "No student differs clearly from its teacher",
        BASELINE: f"{listed(others)} {'do' if len(others) > 1 else 'does'} not differ clearly from {f.reference}",
        CONTROL: "No model differs clearly from its untrained start",
    }[f.kind]
    ends = ""
    if f.ends:
        low, high = _plain(f.metric, f.ends)
        ends = f": {low} to {high}{' %' if f.metric in IN_POINTS else _unit(f)}"
    (bound,) = _plain(f.metric, (f.change.high,))
    return f"{who} in {_subject(f)}{ends}. A difference of up to {bound}{_unit(f)} could still hide."


def _alike(f: Finding) -> str:
    margin, low, high = _plain(f.metric, (f.margin, f.change.low, f.change.high))
    return (
        f"{f.reference} and {f.model} agree within {margin}{_unit(f)} in {_subject(f)}: "
        f"{low} to {high} ({_minus(f)}{_unpaired(f)})."
    )


def _same(f: Finding) -> str:
    return f"{f.reference} and {f.model} agree exactly in {_subject(f)}."


def _under_trained(f: Finding) -> str:
    verb = "is" if len(f.models) == 1 else "are"
    return (
        f"{listed(f.models)} {verb} under-trained (final training loss more than 0.1 above that of the other), so the "
        f"accuracies of {f.model} and {f.reference} are not compared."
    )


def _only_numbers(f: Finding) -> str:
    value, low, high = _numbers(f)
    few = f"{f.images} images are" if f.trainings == 1 else f"{f.trainings} trainings are"
    bounds = f" ({low} to {high})" if f.change.bounded else ""
    return f"{_capital(_subject(f))}, {_minus(f)}: {value}{_unit(f)}{bounds}; {few} too few for a sentence."


def _undefined(f: Finding) -> str:
    if f.models:
        verb = "has" if len(f.models) == 1 else "have"
        return f"{_capital(_subject(f))} is undefined for {listed(f.models)}, which {verb} one head a block."
    return f"{_capital(_subject(f))} is not compared between {f.reference} and {f.model}: pixels of different grids."


_RULES = {
    "differs": _differs,
    "uncorrected": _uncorrected,
    "unclear": _unclear,
    "unclear all": _unclear_all,
    "alike": _alike,
    "same": _same,
    "under-trained": _under_trained,
    "numbers": _only_numbers,
    "undefined": _undefined,
}


def _badge(f: Finding) -> str:
    """At most four words that a reader must see beside the sentence."""
    badges = {
        "1 head a block": f.rule == "undefined" and bool(f.models),
        "Different grids": f.metric == "distance_ratio" or (f.rule == "undefined" and not f.models),
        "Under-trained": f.rule == "under-trained",
        "2 trainings": f.trainings == 2,
        f"{f.images} images": f.trainings == 1 and 0 < f.images < FEW_IMAGES,
        "Unpaired": not f.paired,
        "Untrained differs as much": bool(f.start),
    }
    return next((text for text, holds in badges.items() if holds), "")


# --- pieces ----------------------------------------------------------------------------------------------


def _subject(f: Finding) -> str:
    return _words()[f.metric]["subject"]


def _unit(f: Finding) -> str:
    return _words()[f.metric]["unit"]


def _minus(f: Finding) -> str:
    return f"{f.model} minus {f.reference}"


def _unpaired(f: Finding) -> str:
    return "" if f.paired else "; unpaired"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbers(f: Finding, sign: int = 1) -> tuple[str, str, str]:
    """Value and ends of the difference, times ``sign``, with as many decimals as tell them apart."""
    change = f.change
    ends = sorted((sign * change.low, sign * change.high)) if change.bounded else [math.nan, math.nan]
    value, low, high = _plain(f.metric, (sign * change.value, *ends))
    return value, low, high


def _plain(metric: str, numbers: Sequence[float]) -> list[str]:
    """Numbers of one measure with the same decimals: one at least, at most four, as many as tell all apart.

    >>> _plain("distance", (-2.27, -2.31, -2.22)), _plain("accuracy", (0.012,))
    (['−2.27', '−2.31', '−2.22'], ['1.2'])
    """
    scaled = [100 * number if metric in IN_POINTS else number for number in numbers]
    known = [number for number in scaled if math.isfinite(number)]
    fewest = 1 if metric in IN_POINTS or METRICS[metric].unit == "px" else 2
    apart = (d for d in range(fewest, 5) if len({f"{n:.{d}f}" for n in known}) == len(set(known)))
    digits = next(apart, 4)
    return [f"{number:.{digits}f}".replace("-", "−") for number in scaled]
