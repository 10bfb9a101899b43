"""Differences of two models on the same images, with intervals of the difference: what both share cancels.

A measure by block is compared as the mean over the last half of each model's blocks (relative depth above one half)
and all heads, image by image; block by block too where both have as many blocks. What is no mean over images is in
``of_averages``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fdlab.compare.of_averages import average_rows
from fdlab.compare.significance import weighted_sum
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import paired_difference_interval, proportion_interval
from fdlab.records.means import known_mean, late
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record

Row = dict[str, Any]
# Two models' logits have no common scale: only shares of them are compared.
NO_COMMON_SCALE = ("score_whole", "score_empty", "head_effect", "head_conductance")
NOT_COMPARABLE = "not comparable: pixels of different grids"  # the ``objective`` of such a difference
PAIRED_SHARES = "paired, image by image"
UNPAIRED = "unpaired: of two separate intervals"
# Arrays of right and wrong answers, one an image -> the share that they are of.
SHARES = {
    "accuracy": "accuracy",
    "knn patch mean": "knn",
    "linear_probe patch mean": "linear_probe",
}
LAYOUT = ("grid", "patch_size", "image_size", "windows")


def same_images(first: Record, second: Record) -> bool:
    """Whether both were measured on the same images in the same order."""
    keys = ("data_digest", "images", "seed")
    return all(first.manifest.get(key) == second.manifest.get(key) for key in keys)


def same_pixels(first: Record, second: Record) -> bool:
    """Whether a distance in pixels means the same in both: one grid, patch and input size, the same windows."""
    return all(_of_all_blocks(first, key) == _of_all_blocks(second, key) for key in LAYOUT)


def _of_all_blocks(record: Record, key: str) -> Any:
    """A part of the layout; one value where all blocks have it, so that models of other depth can be alike."""
    value: Any = record.manifest.get(key)
    alike = isinstance(value, list) and len(value) > 0 and all(each == value[0] for each in value)
    return value[0] if alike else value


def paired_rows(
    records: Mapping[str, Record], pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> tuple[list[Row], list[str]]:
    """Rows of the table (``model`` minus ``reference``) for all pairs, and sentences on pairs that cannot be made.

    Args:
        records: label -> record of one probe.
        pairs: (model, reference).
        seed: of the resampled images.

    A difference in pixels of models on different grids is kept and marked as ``NOT_COMPARABLE`` (``objective``).
    """
    rows: list[Row] = []
    notes: list[str] = []
    for model, reference in pairs:
        absent = [label for label in (model, reference) if label not in records]
        if absent:
            notes.append(f"{model} minus {reference}: {' and '.join(absent)} was not measured.")
            continue
        first, second = records[model], records[reference]
        if not same_images(first, second):
            notes.append(f"{model} minus {reference}: not on the same images, so no difference is taken.")
            continue
        objectives = [record.manifest.get("objective", "") for record in (first, second)]
        if first.manifest.get("probe") == "attribution" and objectives[0] != objectives[1]:
            notes.append(f"{model} minus {reference}: other scores ({' and '.join(objectives)}), so no difference.")
            continue
        depths = {_depth(record) for record in (first, second)} - {0}
        if len(depths) > 1:
            notes.append(f"{model} and {reference} have different depths: their last halves are compared.")
        same = {"model": model, "reference": reference, "seed": seed, "probe": first.manifest.get("probe", "")}
        same["objective"] = next(iter(first.table["objective"]), "")
        marked = {} if same_pixels(first, second) else {"objective": NOT_COMPARABLE}
        rows += [
            {**same, **row, **(marked if row["unit"] == "px" else {})} for row in _differences(first, second, seed)
        ]
    return rows, notes


def _depth(record: Record) -> int:
    return next((values.shape[1] for _, values in _measures(record) if values.ndim > 1), 0)


def _measures(record: Record) -> Iterable[tuple[str, np.ndarray]]:
    """The per-image arrays of known metrics: (n,), (n, blocks) or (n, blocks, heads)."""
    count = record.manifest.get("images")
    for name, values in record.arrays.items():
        if (
            name in METRICS
            and name not in (*NO_COMMON_SCALE, *SHARES)
            and values.ndim <= 3
            and values.dtype.kind in "fiub"
            and values.shape[:1] == (count,)
        ):
            yield name, values.astype(np.float64)


def _differences(first: Record, second: Record, seed: int) -> Iterable[Row]:
    yield from _shares(first, second)
    others = dict(_measures(second))
    for metric, values in _measures(first):
        other = others.get(metric)
        if other is None or values.ndim != other.ndim:
            continue
        same = {"metric": metric, "n": len(values), "unit": METRICS[metric].unit}
        if values.ndim == 1:
            yield same | paired_difference_interval(values, other, seed).row
            continue
        yield same | paired_difference_interval(late(values), late(other), seed).row
        if (count := values.shape[1]) == other.shape[1]:
            change = paired_difference_interval(_by_block(values), _by_block(other), seed)
            for block, (value, low, high) in enumerate(zip(*change[:3], strict=True)):
                bounds = Estimate(float(value), float(low), float(high)).row
                yield same | {"block": block, "depth": (block + 1) / count} | bounds
    yield from average_rows(first, second, seed)


def _shares(first: Record, second: Record) -> Iterable[Row]:
    """Differences of shares of right answers, image by image; a readout's classifiers are not fitted again."""
    for name, metric in SHARES.items():
        if name in first.arrays and name in second.arrays:
            answers = [np.asarray(record.arrays[name], dtype=bool) for record in (first, second)]
            where = f"patch mean, {PAIRED_SHARES}" if name != metric else PAIRED_SHARES
            row = {"metric": metric, "n": len(answers[0]), "unit": "", "objective": where}
            yield row | paired_shares(*answers).row


def paired_shares(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The difference of two shares of right answers on the same images (Newcombe 1998, paired data, method 10).

    Wilson's intervals of both shares are joined in squares, with the correlation of the answers, corrected for
    continuity.

    >>> paired_shares(np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 50))[:1]
    (0.1...,)

    Args:
        first, second: (n,) bool: whether each image was answered rightly, in the same order.

    Raises:
        ValueError: other numbers of images.
    """
    if len(first) != len(second):
        raise ValueError(f"paired answers need the same images: {len(first)} and {len(second)}")
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only, other = int((first & ~second).sum()), int((~first & second).sum())
    own, their = (proportion_interval(int(answers.sum()), n) for answers in (first, second))
    product = float(both * neither - only * other)
    product = max(product - n / 2, 0.0) if product > 0 else product
    scale = math.sqrt((both + only) * (other + neither) * (both + other) * (only + neither))
    phi = product / scale if scale else 0.0

    def joined(one: float, two: float) -> float:
        return math.sqrt(max(one**2 - 2 * phi * one * two + two**2, 0.0))

    value = (only - other) / n
    below = joined(own.value - own.low, their.high - their.value)
    above = joined(own.high - own.value, their.value - their.low)
    return Estimate(value, value - below, value + above, n)


def unpaired_shares(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two shares on images that are not the same (Newcombe 1998, method 10, from Wilson's ends)."""
    return weighted_sum([(1.0, first), (-1.0, second)], min(first.n, second.n))


def _by_block(values: np.ndarray) -> np.ndarray:
    """(n, blocks): the mean over heads."""
    return values if values.ndim == 2 else known_mean(values)
