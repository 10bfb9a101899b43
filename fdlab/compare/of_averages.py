"""Differences of what is no mean over images: a function of averages. Both models are resampled with the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fdlab.measures.attribution_rows import area, falling, rising
from fdlab.records.intervals import interval_of_means
from fdlab.records.means import blocks_of, late
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record

OVER_HEADS = {"distance_spread": lambda d: d.max(-1) - d.min(-1), "distance_sd": lambda d: d.std(-1)}
CURVES = {"deletion": falling, "insertion": rising}


class Statistic(NamedTuple):
    """``function`` (R, ...) -> (R,) of averages over images of ``values`` (n, ...)."""

    values: np.ndarray
    function: Callable[[np.ndarray], np.ndarray]


def average_rows(first: Record, second: Record, seed: int) -> Iterable[dict[str, Any]]:
    """A row for every statistic that both records have, and that is defined in both."""
    own, other = _statistics(first), _statistics(second)
    for metric in own:
        if metric in other and _defined(first, metric) and _defined(second, metric):
            found = _difference(own[metric], other[metric], seed)
            yield {"metric": metric, "n": len(own[metric].values), "unit": METRICS[metric].unit, **found}
    yield from _teacher_rows(first, second, seed)


def _teacher_rows(first: Record, second: Record, seed: int) -> Iterable[dict[str, Any]]:
    """``teacher_r2`` of the final tokens, and block by block where both have as many blocks; of one teacher only.

    The folds follow from the seed and the number of images, so both models' ridges saw the same images; they are not
    fitted again for the interval, as in the interval of the value itself.
    """
    objectives = [_final_objective(record) for record in (first, second)]
    if not objectives[0] or objectives[0] != objectives[1]:
        return
    squares = [record.arrays["teacher_squares"] for record in (first, second)]  # (n, blocks + 1, 2), the final last
    depths = [one.shape[1] - 1 for one in squares]
    for place in (-1, *(range(depths[0]) if depths[0] == depths[1] else ())):
        pair = [one[:, place] for one in squares]
        if not all(np.isfinite(one).all() for one in pair):
            continue  # a block without a grid
        own, other = (Statistic(one, lambda means: 1 - means[:, 0] / means[:, 1]) for one in pair)
        found = _difference(own, other, seed)
        where = {} if place < 0 else {"block": place, "depth": (place + 1) / depths[0]}
        words = objectives[0] if place < 0 else objectives[0].replace("final tokens", "block output")
        yield {"metric": "teacher_r2", "n": len(squares[0]), "unit": "", "objective": words, **where, **found}


def _final_objective(record: Record) -> str:
    """Which teacher, and how it was read out of the final tokens; empty where the record has no such rows."""
    own = record.table
    own = own[(own["metric"] == "teacher_r2") & own["block"].isna()] if "teacher_squares" in record.arrays else own[:0]
    return str(own["objective"].iloc[0]) if len(own) else ""


def _statistics(record: Record) -> dict[str, Statistic]:
    """Spreads over heads (late blocks), areas and gains of attribution curves, shares of head effects (late blocks)."""
    found: dict[str, Statistic] = {}
    arrays = record.arrays
    distance = arrays.get("distance")
    if distance is not None and distance.ndim == 3:
        for name, over in OVER_HEADS.items():
            found[name] = Statistic(distance, lambda means, over=over: blocks_of(over(means)).mean(-1))  # type: ignore[misc]
    for kind in CURVES:
        if f"{kind}_random" in arrays:
            found |= _of_curves(record, kind)
    if "head_effect" in arrays:
        pair = np.stack([late(arrays["head_effect"]), arrays["score_whole"] - arrays["score_empty"]], 1)
        found["head_effect_share"] = Statistic(pair, lambda means: means[:, 0] / means[:, 1])
    return found


def _of_curves(record: Record, kind: str) -> dict[str, Statistic]:
    """Areas, and gains over the random order, of deletion or insertion."""
    points = record.table[record.table["metric"] == f"{kind}_curve_random"]["x"].to_numpy(np.float64)
    scores = {n.removeprefix(f"{kind}_"): v for n, v in record.arrays.items() if n.startswith(f"{kind}_")}
    sign = 1 if kind == "insertion" else -1

    def whole(means: np.ndarray) -> np.ndarray:
        return np.asarray(area(CURVES[kind](means), points))

    def gain(means: np.ndarray) -> np.ndarray:
        return sign * (whole(means[:, 0]) - whole(means[:, 1]))

    found = {f"{kind}_area_{order}": Statistic(values, whole) for order, values in scores.items()}
    for order in (name for name in scores if name != "random"):
        found[f"{kind}_gain_{order}"] = Statistic(np.stack([scores[order], scores["random"]], 1), gain)
    return found


def _defined(record: Record, metric: str) -> bool:
    """Whether the record's own table has a value: shares of a score that images do not raise have none."""
    own = record.table[record.table["metric"] == metric]["value"]
    return not len(own) or bool(own.notna().any())


def _difference(first: Statistic, second: Statistic, seed: int) -> dict[str, float]:
    n, shapes = len(first.values), (first.values.shape[1:], second.values.shape[1:])
    joined = np.concatenate([first.values.reshape(n, -1), second.values.reshape(n, -1)], 1)
    cut = int(np.prod(shapes[0]))

    def change(means: np.ndarray) -> np.ndarray:
        parts = means[:, :cut].reshape(-1, *shapes[0]), means[:, cut:].reshape(-1, *shapes[1])
        return first.function(parts[0]) - second.function(parts[1])

    found = interval_of_means(joined, change, seed)
    return {"value": float(found.value), "low": float(found.low), "high": float(found.high)}
