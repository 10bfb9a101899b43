"""The parts that captions are built from: who is compared, how numbers and intervals are worded.

A caption is four sentences: what is shown; how to read it; one comparison with its numbers; what not to
conclude. Which two models are compared follows from the order and the families alone, never from the
numbers, so that the comparison is not the one that looks best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from fdlab.report.summary import (
    Estimate,
    Facts,
    control_of,
    families,
    late_blocks,
    late_mean,
    models,
    separated,
    show,
    trained,
)

Caption = tuple[str, str, str, str]

ONE_SEED = "the intervals do not hold the scatter between training seeds"
SEVERAL_SEEDS = (
    "values are means over seeds, and their bounds the lowest and highest of any seed, no interval over seeds"
)
OTHER_DESIGN = "these two differ in architecture too, so their difference is not the training's alone"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def on_data(table: pd.DataFrame, facts: Facts) -> str:
    """``256 images of digits``."""
    count = facts.get("images")
    if count is None:
        counts = table["n"].dropna()
        count = int(counts.max()) if len(counts) else None
    images = f"{count} images" if count is not None else "the given images"
    return f"{images} of {facts['data']}" if facts.get("data") else images


def on_images(table: pd.DataFrame, facts: Facts) -> str:
    """``on_data`` with the images of these rows, where a costly probe saw fewer than the report's others."""
    counts = table["n"].dropna()
    fewer = min(int(counts.max()), int(facts.get("images") or counts.max())) if len(counts) else facts.get("images")
    return on_data(table, {**facts, "images": fewer})


def seeds(facts: Facts) -> str:
    """``, seed 0`` or ``, seeds 0, 1 and 2``, or nothing."""
    seed = facts.get("seed")
    if seed is None:
        return ""
    if isinstance(seed, Iterable) and not isinstance(seed, str):
        many = [str(one) for one in seed]
        return f", seed{'s' if len(many) > 1 else ''} {listed(many)}" if many else ""
    return f", seed {seed}"


def several_seeds(table: pd.DataFrame) -> bool:
    """Whether some model was trained more than once."""
    return bool((table.groupby("model")["seed"].nunique() > 1).any())


def options(names: Iterable[str], facts: Facts) -> str:
    """Settings that are not the paper's, to end a sentence; every caption with such a model holds them."""
    by_option: dict[str, list[str]] = {}
    names = list(names)
    for name in names:
        for option in facts.get("options", {}).get(name) or ():
            by_option.setdefault(option, []).append(name)
    if not by_option:
        return ""
    parts = [
        f"{option} in {'every model' if len(having) == len(names) > 1 else listed(having)}"
        for option, having in by_option.items()
    ]
    return "; not the paper's setting: " + "; ".join(parts)


def pair(names: Sequence[str], family: Mapping[str, str], facts: Facts) -> tuple[str, str] | None:
    """The two models that a caption compares, or None where there is one model alone.

    ``facts["compare"]`` where it names two of them; else the first distilled model and the first that is
    neither distilled nor untrained (usually its teacher); else the first two trained models; else a model
    with its untrained control.
    """
    wanted = tuple(facts.get("compare") or ())
    if len(wanted) == 2 and set(wanted) <= set(names):
        return wanted[0], wanted[1]
    real = trained(names, family)
    distilled = [name for name in real if family.get(name) == "distilled"]
    others = [name for name in real if family.get(name) not in ("distilled", "random")]
    if distilled and others:
        return others[0], distilled[0]
    if len(real) > 1:
        return real[0], real[1]
    control = control_of(real[0], facts, names) if real else None
    if control is None:
        rest = [name for name in names if name not in real]
        control = rest[0] if rest else None
    return (real[0], control) if real and control is not None else None


def verdict(first: Estimate, second: Estimate) -> str:
    """What the two intervals allow one to say."""
    apart = separated(first, second)
    if apart is None:
        return "without intervals for both, nothing is said about their order"
    return "the intervals are separate" if apart else "not separated, the intervals overlap"


def compared(
    quantity: str, metric: str, values: tuple[Estimate, Estimate], names: tuple[str, str], where: str = ""
) -> str:
    """``In blocks 3 to 4, the spread ... is 1.6 px (1.5 to 1.7) in A and 0.5 px (...) in B: ...``"""
    opening = f"In {where}, the {quantity}" if where else f"The {quantity}"
    unknown = [name for name, value in zip(names, values, strict=True) if not value.known]
    if unknown:
        return f"{opening} is undefined for {listed(unknown)}, so {names[0]} and {names[1]} are not compared."
    first, second = (show(value, metric, unit=True) for value in values)
    return f"{opening} is {first} in {names[0]} and {second} in {names[1]}: {verdict(*values)}."


def late_comparison(table: pd.DataFrame, facts: Facts, metric: str, quantity: str, probe: str = "attention") -> str:
    """Sentence three for a metric of every block: the pair of models, or the late blocks of the only one."""
    measured = table[(table["probe"] == probe) & (table["metric"] == metric)]
    names = models(measured, facts, probe)
    chosen = pair(names, families(table), facts)
    if chosen is None:
        name = names[0]
        value = late_mean(table, metric, name, probe)
        return (
            f"In {late_blocks(measured, name)} of {name}, the {quantity} is {show(value, metric, unit=True)}; "
            "there is no second model to compare it with."
        )
    where = [late_blocks(measured, name) for name in chosen]
    place = where[0] if where[0] == where[1] else f"{where[0]} and {where[1]}"
    values = (late_mean(table, metric, chosen[0], probe), late_mean(table, metric, chosen[1], probe))
    return compared(quantity, metric, values, chosen, place)


def other_design(names: Sequence[str], table: pd.DataFrame, facts: Facts) -> bool:
    """Whether the compared models have different designs, as far as their controls tell."""
    chosen = pair(names, families(table), facts)
    controls = facts.get("controls", {})
    if chosen is None or not all(name in controls for name in chosen):
        return False
    return controls[chosen[0]] != controls[chosen[1]]


def caution(start: str, names: Sequence[str], table: pd.DataFrame, facts: Facts) -> str:
    """Sentence four: ``start``, then what holds for every comparison of trainings."""
    parts = [start.rstrip(".")]
    if other_design(names, table, facts):
        parts.append(OTHER_DESIGN)
    if len(names) > 1:
        parts.append(SEVERAL_SEEDS if several_seeds(table) else ONE_SEED)
    return "; ".join(parts) + "."
