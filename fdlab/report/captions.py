"""The parts that captions are built from: who is compared, how numbers and intervals are worded.

A caption is four sentences: what is shown; how to read it; one comparison with its numbers; what not to
conclude. Which two models are compared follows from the order and the families alone, never from the
numbers, so that the comparison is not the one that looks best.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fdlab.records.estimate import Estimate
from fdlab.report.numbers import show, signed
from fdlab.report.report import Report

Caption = tuple[str, str, str, str]

ONE_SEED = "intervals cover different images, not repeated trainings"
SEVERAL_SEEDS = "values are means over trainings (seeds) with 95 % t-intervals over them"
ALONE = "not corrected for the other comparisons of the page"
OTHER_DESIGN = "these two differ in architecture too, so their difference is not the training's alone"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 model``, ``3 models``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def on_data(report: Report, rows: pd.DataFrame, *, fewer: bool = False) -> str:
    """The images behind some rows: ``256 images of digits``.

    Args:
        fewer: these rows may rest on fewer images than the report's others (a costly probe), which is then said.
    """
    count = report.facts.images
    counts = rows["n"].dropna()
    if len(counts) and (count is None or (fewer and int(counts.max()) < count)):
        count = int(counts.max())
    images = f"{count} images" if count is not None else "the given images"
    images = f"{images} of {report.facts.data}" if report.facts.data else images
    return f"{images}{at_steps(rows)}"


def at_steps(rows: pd.DataFrame) -> str:
    """`` at step 500`` for rows of one moment of a training, ``at the last measured step`` where models differ."""
    steps = sorted({int(step) for step in rows["step"].dropna()}) if "step" in rows else []
    if len(steps) > 1:
        return " at each model's last measured step"
    return f" at step {steps[0]} of the training" if steps else ""


def seeds(report: Report) -> str:
    """``, seed 0`` or ``, seeds 0, 1 and 2``, or nothing."""
    known = [str(seed) for seed in report.facts.seeds]
    return f", seed{'s' if len(known) > 1 else ''} {listed(known)}" if known else ""


def several_seeds(rows: pd.DataFrame) -> bool:
    """Whether some model was trained more than once."""
    return bool((rows.groupby("model")["seed"].nunique() > 1).any())


def options(report: Report, names: Sequence[str]) -> str:
    """Settings that are not the paper's, to end a sentence; every caption with such a model holds them."""
    by_option: dict[str, list[str]] = {}
    for name in names:
        for option in report.facts.options.get(name) or ():
            by_option.setdefault(option, []).append(name)
    parts = [
        f"{option} in {'every model' if len(having) == len(names) > 1 else listed(having)}"
        for option, having in by_option.items()
    ]
    return "; not the paper's setting: " + "; ".join(parts) if parts else ""


def pair(report: Report, names: Sequence[str]) -> tuple[str, str] | None:
    """The two models that a caption compares, or None where there is one model alone.

    ``facts.compare`` where it names two of them; else the first distilled model and the first that is
    neither distilled nor untrained (usually its teacher); else the first two trained models; else a model
    with its untrained control.
    """
    wanted = tuple(report.facts.compare)
    if len(wanted) == 2 and set(wanted) <= set(names):
        return wanted[0], wanted[1]
    real, family = report.trained(names), report.families
    distilled = [name for name in real if family.get(name) == "distilled"]
    others = [name for name in real if family.get(name) not in ("distilled", "random")]
    if distilled and others:
        return others[0], distilled[0]
    if len(real) > 1:
        return real[0], real[1]
    control = report.control_of(real[0], names) if real else None
    if control is None:
        control = next((name for name in names if name not in real), None)
    return (real[0], control) if real and control is not None else None


def verdict(change: Estimate, how: str, metric: str, names: tuple[str, str]) -> str:
    """What the difference of two models (the second minus the first) allows one to say.

    >>> verdict(Estimate(0.2, 0.1, 0.3), "on the same images", "nmi", ("A", "B"))
    'B minus A is +0.20 (+0.10 to +0.30), on the same images, not corrected for the other comparisons of the page'
    >>> verdict(Estimate(0.2, -0.1, 0.5), "on the same images", "nmi", ("A", "B"))
    'no clear difference, B minus A is +0.20 (-0.10 to +0.50), on the same images'
    """
    if not change.bounded:
        return "without an interval of their difference, nothing is said about their order"
    clear = not change.low <= 0 <= change.high
    said = f"{names[1]} minus {names[0]} is {signed(metric, change)}, {how}"
    return f"{said}, {ALONE}" if clear else f"no clear difference, {said}"


def compared(
    quantity: str,
    metric: str,
    values: tuple[Estimate, Estimate],
    names: tuple[str, str],
    difference: tuple[Estimate, str],
    where: str = "",
) -> str:
    """``In blocks 3 to 4, the spread ... is 1.6 px (1.5 to 1.7) in A and 0.5 px (...) in B: B minus A is ...``

    Args:
        difference: of the second minus the first, and what its interval is over: ``Report.difference``.
    """
    opening = f"In {where}, the {quantity}" if where else f"The {quantity}"
    unknown = [name for name, value in zip(names, values, strict=True) if not value.known]
    if unknown:
        return f"{opening} is undefined for {listed(unknown)}, so {names[0]} and {names[1]} are not compared."
    first, second = (show(value, metric, unit=True) for value in values)
    return f"{opening} is {first} in {names[0]} and {second} in {names[1]}: {verdict(*difference, metric, names)}."


def late_comparison(report: Report, metric: str, quantity: str, probe: str = "attention") -> str:
    """Sentence three for a metric of every block: the pair of models, or the late blocks of the only one."""
    names = report.measured(probe, metric)
    chosen = pair(report, names)
    if chosen is None:
        value = show(report.late_mean(metric, names[0], probe), metric, unit=True)
        where = report.late_blocks(metric, names[0], probe)
        return f"In {where} of {names[0]}, the {quantity} is {value}; there is no second model to compare it with."
    first, second = (report.late_blocks(metric, name, probe) for name in chosen)
    where = first if first == second else f"{first} and {second}"
    values = (report.late_mean(metric, chosen[0], probe), report.late_mean(metric, chosen[1], probe))
    difference = report.difference(*chosen, metric, probe, late=True)
    return compared(quantity, metric, values, chosen, difference, where)


def other_design(report: Report, names: Sequence[str]) -> bool:
    """Whether the compared models have different designs, as far as their controls tell."""
    chosen, controls = pair(report, names), report.facts.controls
    if chosen is None or not all(name in controls for name in chosen):
        return False
    return controls[chosen[0]] != controls[chosen[1]]


def caution(report: Report, start: str, names: Sequence[str], rows: pd.DataFrame) -> str:
    """Sentence four: ``start``, then what holds for every comparison of trainings."""
    parts = [start.rstrip(".")]
    if other_design(report, names):
        parts.append(OTHER_DESIGN)
    if len(names) > 1:
        parts.append(SEVERAL_SEEDS if several_seeds(rows) else ONE_SEED)
    return "; ".join(parts) + "."
