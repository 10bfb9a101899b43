"""As many images as a precision needs: one growing set for all models, no image of which is measured twice.

The set is the seed's permutation from its start, so that a larger one begins with the smaller. Each size is asked
of the store as a plain question of that many images: what was measured with another tolerance, or beside other
models, or before a run was stopped, is found there, and a tolerance decides only where to stop.

Do not read the last interval as if its n had been fixed before: growth ends where intervals happen to be narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from fdlab.data.images import ImageSource
from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import stream
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record

FIRST = 64  # images before the first judgement: fewer would stop at a lucky interval
Records = TypeVar("Records", bound=Mapping[str, Record])


class Widest(NamedTuple):
    """The row of a table whose interval is widest; ``half_width`` is inf where one has no interval."""

    metric: str
    block: int | None
    head: int | None
    half_width: float


def checked(tolerance: Any) -> float:
    """0 (or None) for none, else a half-width; code 2 where it is neither."""
    try:
        value = float(tolerance or 0.0)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise FdlabError(
            f"The tolerance '{tolerance}' is no half-width.",
            "It bounds the 95 % interval of metrics between 0 and 1.",
            "Pass a number from 0 (off) to below 1, e.g. 0.02.",
            USAGE,
        )
    return value


def stages(asked: int, available: int) -> list[int]:
    """The sizes of the growing set: 64, 128, 256, ... and at last all of the ``asked`` that are ``available``.

    >>> stages(256, 200)
    [64, 128, 200]
    """
    last = min(asked, available)
    return [FIRST * 2**k for k in range(32) if FIRST * 2**k < last] + [last]


def drawn(source: ImageSource, count: int, seed: int) -> ImageSource:
    """The first ``count`` images of the seed's permutation, also where that is all of them."""
    if source.endless or count < len(source):
        return source.sample(count, seed)
    return source.subset(stream(seed, "sample").permutation(len(source)))


def bounded(metric: str) -> bool:
    """Whether a tolerance is meant for this metric: it lives in [0, 1], or is ``distance_ratio``."""
    entry = METRICS.get(metric)
    return metric == "distance_ratio" or (entry is not None and (entry.low, entry.high) == (0.0, 1.0))


def widest(table: pd.DataFrame) -> Widest:
    """Of one model's rows that a tolerance is meant for; undefined values are left out.

    Raises:
        FdlabError: there is no such row.
    """
    rows = table[table["metric"].map(bounded) & table["value"].notna()]
    if rows.empty:
        raise FdlabError(
            "A tolerance has nothing to judge here.",
            "It is meant for metrics between 0 and 1 and for distance_ratio; none of them is measured.",
            "Add one of them to metrics, or leave the tolerance out.",
            USAGE,
        )
    half = ((rows["high"] - rows["low"]) / 2).to_numpy(float)
    half = np.where(np.isnan(half), math.inf, half)
    row = rows.iloc[int(half.argmax())]
    block, head = (None if pd.isna(row[name]) else int(row[name]) for name in ("block", "head"))
    return Widest(str(row["metric"]), block, head, float(half.max()))


def grow(answer: Callable[[int, Mapping[str, Record]], Records], counts: Sequence[int], tolerance: float) -> Records:
    """Asks for more and more images until every model is within the tolerance; the manifests say how it ended.

    Args:
        answer: (images, the records of fewer) -> the records of all models on the same images.
        counts: the sizes to try, growing.
        tolerance: the largest half-width allowed.
    """
    records = answer(counts[0], {})
    for count in counts[1:]:
        if _judged(records, tolerance)["reached"]:
            break
        records = answer(count, records)
    verdict = _judged(records, tolerance)
    for record in records.values():
        record.manifest["tolerance"] = verdict
    return records


def _judged(records: Mapping[str, Record], tolerance: float) -> dict[str, Any]:
    """What was asked, whether every model is within it, and the widest interval of all."""
    by_model = {label: widest(record.table) for label, record in records.items()}
    label = max(by_model, key=lambda name: by_model[name].half_width)
    return {
        "asked": tolerance,
        "reached": by_model[label].half_width <= tolerance,
        "widest": {"model": label, **by_model[label]._asdict()},
    }


def sentence(verdict: Mapping[str, Any], images: int, skipped: int = 0) -> str:
    """How the growth ended, for a report; blocks and heads count from 1, as in figures. ``skipped``: unreadable."""
    row = verdict["widest"]
    where = "".join(f", {name} {row[name] + 1}" for name in ("block", "head") if row[name] is not None)
    every = "all readable images were used" if skipped else "all images were used"
    end = "reached with" if verdict["reached"] else f"NOT reached: {every},"
    return (
        f"tolerance {verdict['asked']:g} {end} {images} images;"
        f" widest: {row['metric']} of {row['model']}{where}, half-width {row['half_width']:.2g}"
    )
