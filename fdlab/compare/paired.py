"""Differences of two models on the same images, with intervals of the difference: what both share cancels.

A measure by block is compared as the mean over the last half of each model's blocks (relative depth above one half)
and all heads, image by image; block by block too where both have as many blocks. What is no mean over images is in
``of_averages``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fdlab.compare.of_averages import average_rows
from fdlab.records.intervals import paired_difference_interval
from fdlab.records.means import known_mean, late
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record

Row = dict[str, Any]
# Two models' logits have no common scale: only shares of them are compared.
NO_COMMON_SCALE = ("score_whole", "score_empty", "head_effect", "head_conductance")


def same_images(first: Record, second: Record) -> bool:
    """Whether both were measured on the same images in the same order."""
    keys = ("data_digest", "images", "seed")
    return all(first.manifest.get(key) == second.manifest.get(key) for key in keys)


def paired_rows(
    records: Mapping[str, Record], pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> tuple[list[Row], list[str]]:
    """Rows of the table (``model`` minus ``reference``) for all pairs, and sentences on pairs that cannot be made.

    Args:
        records: label -> record of one probe.
        pairs: (model, reference).
    """
    rows: list[Row] = []
    said: list[str] = []
    for model, reference in pairs:
        absent = [label for label in (model, reference) if label not in records]
        if absent:
            said.append(f"{model} minus {reference}: {' and '.join(absent)} was not measured.")
            continue
        first, second = records[model], records[reference]
        if not same_images(first, second):
            said.append(f"{model} minus {reference}: not on the same images, so no difference is taken.")
            continue
        objectives = [record.manifest.get("objective", "") for record in (first, second)]
        if first.manifest.get("probe") == "attribution" and objectives[0] != objectives[1]:
            said.append(f"{model} minus {reference}: other scores ({' and '.join(objectives)}), so no difference.")
            continue
        depths = {_depth(record) for record in (first, second)} - {0}
        if len(depths) > 1:
            said.append(f"{model} and {reference} have different depths: their last halves are compared.")
        same = {"model": model, "reference": reference, "seed": seed, "probe": first.manifest.get("probe", "")}
        same["objective"] = _objective(first)
        rows += [{**same, **row} for row in _differences(first, second, seed)]
    return rows, said


def _objective(record: Record) -> str:
    found = record.table["objective"]
    return str(found.iloc[0]) if len(found) else ""


def _depth(record: Record) -> int:
    return next((values.shape[1] for _, values in _measures(record) if values.ndim > 1), 0)


def _measures(record: Record) -> Iterable[tuple[str, np.ndarray]]:
    """The per-image arrays of known metrics: (n,), (n, blocks) or (n, blocks, heads)."""
    count = record.manifest.get("images")
    for name, values in record.arrays.items():
        if (
            name in METRICS
            and name not in NO_COMMON_SCALE
            and values.ndim <= 3
            and values.dtype.kind in "fiub"
            and values.shape[:1] == (count,)
        ):
            yield name, values.astype(np.float64)


def _differences(first: Record, second: Record, seed: int) -> Iterable[Row]:
    others = dict(_measures(second))
    for metric, own in _measures(first):
        other = others.get(metric)
        if other is None or own.ndim != other.ndim:
            continue
        same = {"metric": metric, "n": len(own), "unit": METRICS[metric].unit}
        if own.ndim == 1:
            yield {**same, **_row(paired_difference_interval(own, other, seed))}
            continue
        yield {**same, **_row(paired_difference_interval(late(own), late(other), seed))}
        if own.shape[1] == other.shape[1]:
            change = paired_difference_interval(_blocks(own), _blocks(other), seed)
            yield from _by_block(same, change)
    yield from average_rows(first, second, seed)


def _blocks(values: np.ndarray) -> np.ndarray:
    """(n, blocks): the mean over heads."""
    return values if values.ndim == 2 else known_mean(values)


def _by_block(same: Row, change: Any) -> Iterable[Row]:
    count = len(change.value)
    for block in range(count):
        place = {"block": block, "depth": (block + 1) / count}
        bounds = {part: float(getattr(change, part)[block]) for part in ("value", "low", "high")}
        yield {**same, **place, **bounds}


def _row(change: Any) -> Row:
    return {"value": float(change.value), "low": float(change.low), "high": float(change.high)}
