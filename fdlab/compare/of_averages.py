"""Differences of what is no mean over images: a function of averages. Both models are resampled with the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fdlab.measures.attribution_rows import area, falling, rising
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import interval_of_means
from fdlab.records.means import blocks_of, late
from fdlab.records.metrics import METRICS
from fdlab.records.spread import SPREADS, combined_spread
from fdlab.records.store import Record

CURVES = {"deletion": falling, "insertion": rising}


class Statistic(NamedTuple):
    """``function`` (R, ...) -> (R,) of averages over images of ``values`` (n, ...)."""

    values: np.ndarray
    function: Callable[[np.ndarray], np.ndarray]


def average_rows(first: Record, second: Record, seed: int) -> Iterable[dict[str, Any]]:
    """A row for every statistic that both records have, and that is defined in both."""
    others = _statistics(second)
    for metric, statistic in _statistics(first).items():
        if metric in others and _defined(first, metric) and _defined(second, metric):
            change = _difference(statistic, others[metric], seed)
            yield {"metric": metric, "n": len(statistic.values), "unit": METRICS[metric].unit, **change.row}
    yield from _spread_rows(first, second, seed)
    yield from _teacher_rows(first, second, seed)


def _spread_rows(first: Record, second: Record, seed: int) -> Iterable[dict[str, Any]]:
    """Spreads over heads of the late blocks, each without the noise of its own head means."""
    distances = [record.arrays.get("distance") for record in (first, second)]
    late_blocks = [blocks_of(values) for values in distances if values is not None and values.ndim == 3]
    if len(late_blocks) < 2:
        return
    for metric in SPREADS:
        change = combined_spread([(1.0, late_blocks[0]), (-1.0, late_blocks[1])], metric, seed)
        if change.known:
            yield {"metric": metric, "n": change.n, "unit": METRICS[metric].unit, **change.row}


def _teacher_rows(first: Record, second: Record, seed: int) -> Iterable[dict[str, Any]]:
    """``teacher_r2`` of the final tokens, and block by block where both have as many blocks; of one teacher only.

    The folds follow from the seed and the number of images, so both models' ridges saw the same images; they are not
    fitted again for the interval, as in the interval of the value itself.
    """
    objectives = [_final_objective(record) for record in (first, second)]
    if not objectives[0] or objectives[0] != objectives[1]:
        return
    squares = [record.arrays["teacher_squares"] for record in (first, second)]  # (n, blocks + 1, 2), the final last
    depths = [values.shape[1] - 1 for values in squares]
    for block in (-1, *(range(depths[0]) if depths[0] == depths[1] else ())):
        pair = [values[:, block] for values in squares]
        if not all(np.isfinite(values).all() for values in pair):
            continue  # a block without a grid
        explained, other = (Statistic(values, lambda means: 1 - means[:, 0] / means[:, 1]) for values in pair)
        change = _difference(explained, other, seed)
        where = {} if block < 0 else {"block": block, "depth": (block + 1) / depths[0]}
        words = objectives[0] if block < 0 else objectives[0].replace("final tokens", "block output")
        yield {"metric": "teacher_r2", "n": len(squares[0]), "unit": "", "objective": words, **where, **change.row}


def _final_objective(record: Record) -> str:
    """Which teacher, and how it was read out of the final tokens; empty where the record has no such rows."""
    if "teacher_squares" not in record.arrays:
        return ""
    table = record.table
    return next(iter(table.loc[(table["metric"] == "teacher_r2") & table["block"].isna(), "objective"]), "")


def _statistics(record: Record) -> dict[str, Statistic]:
    """Areas and gains of attribution curves, shares of head effects (late blocks)."""
    statistics: dict[str, Statistic] = {}
    arrays = record.arrays
    for kind in CURVES:
        if f"{kind}_random" in arrays:
            statistics |= _of_curves(record, kind)
    if "head_effect" in arrays:
        pair = np.stack([late(arrays["head_effect"]), arrays["score_whole"] - arrays["score_empty"]], 1)
        statistics["head_effect_share"] = Statistic(pair, lambda means: means[:, 0] / means[:, 1])
    return statistics


def _of_curves(record: Record, kind: str) -> dict[str, Statistic]:
    """Areas, and gains over the random order, of deletion or insertion."""
    points = record.table[record.table["metric"] == f"{kind}_curve_random"]["x"].to_numpy(np.float64)
    scores = {n.removeprefix(f"{kind}_"): v for n, v in record.arrays.items() if n.startswith(f"{kind}_")}
    sign = 1 if kind == "insertion" else -1

    def whole(means: np.ndarray) -> np.ndarray:
        return np.asarray(area(CURVES[kind](means), points))

    def gain(means: np.ndarray) -> np.ndarray:
        return sign * (whole(means[:, 0]) - whole(means[:, 1]))

    statistics = {f"{kind}_area_{order}": Statistic(values, whole) for order, values in scores.items()}
    for order in (name for name in scores if name != "random"):
        statistics[f"{kind}_gain_{order}"] = Statistic(np.stack([scores[order], scores["random"]], 1), gain)
    return statistics


def _defined(record: Record, metric: str) -> bool:
    """Whether the record's own table has a value: shares of a score that images do not raise have none."""
    values = record.table[record.table["metric"] == metric]["value"]
    return not len(values) or bool(values.notna().any())


def _difference(first: Statistic, second: Statistic, seed: int) -> Estimate:
    """The first statistic minus the second, both of the same resampled images."""
    n, shapes = len(first.values), (first.values.shape[1:], second.values.shape[1:])
    joined = np.concatenate([first.values.reshape(n, -1), second.values.reshape(n, -1)], 1)
    cut = int(np.prod(shapes[0]))

    def change(means: np.ndarray) -> np.ndarray:
        parts = means[:, :cut].reshape(-1, *shapes[0]), means[:, cut:].reshape(-1, *shapes[1])
        return first.function(parts[0]) - second.function(parts[1])

    return interval_of_means(joined, change, seed)
