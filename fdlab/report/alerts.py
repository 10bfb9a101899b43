"""What a reader must see before believing a figure: badges that follow from the table by fixed limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from fdlab.report.report import Report

ALIKE = 0.95  # mean cosine between heads above which a block's heads are said to be alike
UNIFORM = 0.02  # a mean distance closer than this share to that of uniform attention
FEW_IMAGES = 32  # below it intervals are t intervals of few images
PREFIX = 0.9  # attention mass on prefix tokens above which patch statistics speak of a small rest
LOSS_GAP = 0.1  # a training loss this far above the lowest counts as not converged


class Alert(NamedTuple):
    """One alert: the ``figure`` that it concerns (empty: all), ``words`` for its badge, and the ``sentence``."""

    figure: str
    words: str
    sentence: str


def alerts(report: Report) -> list[Alert]:
    """All alerts, most general first."""
    rules = (_images, _attention, _grids, _undefined, _training)
    stated = [Alert("", "Read first", str(sentence)) for sentence in report.facts.alerts]
    return [*(alert for rule in rules for alert in rule(report)), *stated]


def badges(found: Iterable[Alert], shown: Iterable[str]) -> dict[str, list[tuple[str, list[str]]]]:
    """{figure: [(words, sentences)]}; those of figures that are not shown stand under the empty name."""
    known = set(shown)
    placed = [(alert.figure if alert.figure in known else "", alert.words, alert.sentence) for alert in found]
    result: dict[str, list[tuple[str, list[str]]]] = {}
    placed.sort(key=lambda one: one[0])  # stable: the order within a figure stays
    for figure, group in groupby(placed, key=lambda one: one[0]):
        by_words: dict[str, list[str]] = {}
        for _, words, sentence in group:
            by_words.setdefault(words, []).append(sentence)
        result[figure] = list(by_words.items())
    return result


def _images(report: Report) -> Iterator[Alert]:
    count, skipped = report.facts.images, report.facts.skipped_images
    if count is not None and count < FEW_IMAGES:
        said = f"Too few images: {count:g}; intervals are wide and of Student's t below {FEW_IMAGES}."
        yield Alert("", f"{count:g} images", said)
    if skipped:
        many = f"{skipped} image{'s' if skipped > 1 else ''}"
        yield Alert("", f"{many} left out", f"{many} could not be read and were left out.")


def _attention(report: Report) -> Iterator[Alert]:
    for name in report.measured("attention"):
        alike = report.by_block("head_similarity", name)
        alike = alike[alike["value"] >= ALIKE]
        if len(alike):
            most = f"{alike['value'].max():.2f} in {_blocks(alike['block'])}"
            said = f"{name}: head similarity {most}: heads do nearly the same."
            yield Alert("head_similarity", "Heads nearly alike", said)
        distance = report.by_block("distance", name)
        line = distance["block"].map(lambda block, name=name: report.uniform_in(name, block)).astype(float)
        flat = distance[(distance["value"] - line).abs() <= UNIFORM * line]
        if len(flat):
            where = _blocks(flat["block"])
            near = "the mean distance over heads is near that of uniform attention"
            said = f"{name}: {near} in {where}; single heads may differ."
            yield Alert("attention_distance", "Near uniform in some blocks", said)
        prefix = report.by_block("prefix_mass", name)
        prefix = prefix[prefix["value"] >= PREFIX]
        if len(prefix):
            said = (
                f"{name}: {100 * prefix['value'].max():.0f} % of the attention is on prefix tokens in "
                f"{_blocks(prefix['block'])}; what is said of patches there is about the rest."
            )
            yield Alert("attention_distance", "Mostly on prefix tokens", said)


def _grids(report: Report) -> Iterator[Alert]:
    lines = [report.uniform_px(name) for name in report.measured("attention")]
    known = [line for line in lines if math.isfinite(line)]
    if known and max(known) > 1.02 * min(known):
        said = "The models have different grids: compare distance_ratio, not distances in pixels."
        yield Alert("attention_distance", "Different grids", said)


def _undefined(report: Report) -> Iterator[Alert]:
    measured = report.state[~report.state["probe"].isin(["curve", "ruler"])]
    for name in report.models:
        rows = measured[measured["model"] == name]
        lost = rows[rows["value"].isna()]
        if len(lost):
            which = ", ".join(dict.fromkeys(lost["metric"]))
            yield Alert("", "Undefined numbers", f"{name}: {len(lost)} of {len(rows)} numbers are undefined ({which}).")


def _training(report: Report) -> Iterator[Alert]:
    losses = {name: report.whole("training", "final_loss", name).value for name in report.measured("training")}
    known = [loss for loss in losses.values() if math.isfinite(loss)]
    behind = [name for name, loss in losses.items() if known and loss > min(known) + LOSS_GAP]
    if behind:
        who = ", ".join(behind)
        said = f"Under-trained (loss more than 0.1 above the lowest), so the accuracy is too low to compare: {who}."
        yield Alert("finetune", f"Under-trained: {len(behind)} models", said)


def _blocks(numbers: Iterable[int]) -> str:
    """Block numbers in words.

    >>> _blocks([3]), _blocks([12, 11]), _blocks([1, 3, 4, 5])
    ('block 3', 'blocks 11-12', 'blocks 1, 3-5')
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    several = len(runs) > 1 or len(runs[0]) > 1
    text = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"block{'s' if several else ''} {text}"
