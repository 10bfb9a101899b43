"""What a reader must see before believing a figure: sentences that follow from the table by fixed limits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from fdlab.report.summary import Facts, by_block, models, of_model, uniform_px

ALIKE = 0.95  # mean cosine between heads above which a block's heads are said to be alike
UNIFORM = 0.02  # a mean distance closer than this share to that of uniform attention
FEW_IMAGES = 32  # below it intervals are t intervals of few images
PREFIX = 0.9  # attention mass on prefix tokens above which patch statistics speak of a small rest


def alerts(table: pd.DataFrame, facts: Facts) -> list[str]:
    """All alerts, most general first."""
    return [
        *_images(table, facts),
        *(sentence for name in models(table, facts, "attention") for sentence in _attention(table, facts, name)),
        *_grids(table, facts),
        *_undefined(table, facts),
        *_training(table, facts),
        *(str(alert) for alert in facts.get("alerts") or ()),
    ]


def _images(table: pd.DataFrame, facts: Facts) -> Iterator[str]:
    count = facts.get("images")
    if isinstance(count, int | float) and count < FEW_IMAGES:
        yield f"Too few images: {count:g}; intervals are wide and of Student's t below {FEW_IMAGES}."
    skipped = facts.get("skipped_images") or 0
    if skipped:
        yield f"{skipped} image{'s' if skipped > 1 else ''} could not be read and were left out."


def _attention(table: pd.DataFrame, facts: Facts, name: str) -> Iterator[str]:
    alike = by_block(table, "head_similarity", name)
    found = alike[alike["value"] >= ALIKE]
    if len(found):
        where = _blocks(list(found["block"]))
        yield f"{name}: head similarity {found['value'].max():.2f} in {where}: heads do nearly the same."
    uniform, distance = uniform_px(table, facts, name), by_block(table, "distance", name)
    by_stage = dict(enumerate(facts.get("uniform_by_block_px", {}).get(name, ()), start=1))
    line = distance["block"].map(lambda block: by_stage.get(block, uniform)).astype(float)
    flat = distance[(distance["value"] - line).abs() <= UNIFORM * line]
    if len(flat):
        where = _blocks(list(flat["block"]))
        yield f"{name}: distance equals that of uniform attention in {where}; it tells no range there."
    prefix = by_block(table, "prefix_mass", name)
    most = prefix[prefix["value"] >= PREFIX]
    if len(most):
        yield (
            f"{name}: {100 * most['value'].max():.0f} % of the attention is on prefix tokens in "
            f"{_blocks(list(most['block']))}; what is said of patches there is about the rest."
        )


def _grids(table: pd.DataFrame, facts: Facts) -> Iterator[str]:
    known = {name: uniform_px(table, facts, name) for name in models(table, facts, "attention")}
    known = {name: value for name, value in known.items() if math.isfinite(value)}
    if known and max(known.values()) > 1.02 * min(known.values()):
        yield "The models have different grids: compare distance_ratio, not distances in pixels."


def _undefined(table: pd.DataFrame, facts: Facts) -> Iterator[str]:
    measured = table[~table["probe"].isin(["curve", "ruler"])]
    for name in models(table, facts):
        own = measured[measured["model"] == name]
        lost = int(own["value"].isna().sum())
        if lost:
            which = ", ".join(dict.fromkeys(own.loc[own["value"].isna(), "metric"]))
            yield f"{name}: {lost} of {len(own)} numbers are undefined ({which})."


def _training(table: pd.DataFrame, facts: Facts) -> Iterator[str]:
    losses = {name: of_model(table, "training", "final_loss", name).value for name in models(table, facts, "training")}
    known = [value for value in losses.values() if math.isfinite(value)]
    behind = [name for name, value in losses.items() if known and value > min(known) + 0.1]
    if behind:
        yield f"Not converged as far as the best (training loss more than 0.1 above it): {', '.join(behind)}."


def _blocks(numbers: list[int]) -> str:
    """``block 3``, ``blocks 11-12``, ``blocks 1, 3-5``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    text = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return f"block{'s' if len(numbers) > 1 else ''} {text}"
