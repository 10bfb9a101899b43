"""Differences of two models on the same images, with intervals of the difference: what both share cancels.

A measure by block is compared as the mean over the last half of each model's blocks (relative depth above one half)
and all heads, image by image; block by block too where both have as many blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fdlab.records.intervals import BOOTSTRAP_FROM, paired_difference_interval, resampled_means
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record

Row = dict[str, Any]
# Statistics of image-averaged distances over heads: (R, blocks, heads) -> (R, blocks).
OVER_HEADS = {"distance_spread": lambda d: d.max(-1) - d.min(-1), "distance_sd": lambda d: d.std(-1)}


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
        if name in METRICS and values.ndim <= 3 and values.dtype.kind in "fiub" and values.shape[:1] == (count,):
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
        yield {**same, **_row(paired_difference_interval(_late(own), _late(other), seed))}
        if own.shape[1] == other.shape[1]:
            change = paired_difference_interval(_blocks(own), _blocks(other), seed)
            yield from _by_block(same, change)
        if metric == "distance" and own.ndim == 3:
            yield from _over_heads(own, other, same, seed)


def _over_heads(own: np.ndarray, other: np.ndarray, same: Row, seed: int) -> Iterable[Row]:
    """Spread and deviation over heads are no means of images: both models are resampled with the same draws."""
    for metric, function in OVER_HEADS.items():
        values = function(own.mean(0)[None])[0], function(other.mean(0)[None])[0]
        value = float(np.mean(_last_half(values[0])) - np.mean(_last_half(values[1])))
        row = {**same, "metric": metric, "value": value}
        if len(own) >= BOOTSTRAP_FROM:
            draws = [_last_half(function(resampled_means(v, seed))).mean(-1) for v in (own, other)]
            low, high = np.quantile(draws[0] - draws[1], [0.025, 0.975])
            row |= {"low": min(float(low), value), "high": max(float(high), value)}
        yield row


def _last_half(values: np.ndarray) -> np.ndarray:
    """(..., blocks) -> the blocks whose relative depth (block + 1) / blocks is above one half."""
    return values[..., values.shape[-1] // 2 :]


def _late(values: np.ndarray) -> np.ndarray:
    """(n,): the mean over the last half of the blocks and all heads; undefined values are left out."""
    late = values[:, values.shape[1] // 2 :].reshape(len(values), -1)
    return _mean(late)


def _blocks(values: np.ndarray) -> np.ndarray:
    """(n, blocks): the mean over heads."""
    return values if values.ndim == 2 else _mean(values)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, undefined values left out; NaN where all are."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _by_block(same: Row, change: Any) -> Iterable[Row]:
    count = len(change.value)
    for block in range(count):
        place = {"block": block, "depth": (block + 1) / count}
        bounds = {part: float(getattr(change, part)[block]) for part in ("value", "low", "high")}
        yield {**same, **place, **bounds}


def _row(change: Any) -> Row:
    return {"value": float(change.value), "low": float(change.low), "high": float(change.high)}
