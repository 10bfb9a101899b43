"""The two means that every comparison takes: over a part of a model's blocks, and over seeds.

A part of the blocks is told by relative depth, (block + 1) / blocks, so that models of unequal depth can be compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fdlab.records.intervals import t_interval
from fdlab.records.table import frame

LATE = "last half"
PARTS = {  # relative depth: above the first number, up to the second
    "all": (0.0, 1.0),
    "first quarter": (0.0, 1 / 4),
    "first third": (0.0, 1 / 3),
    "first half": (0.0, 1 / 2),
    LATE: (1 / 2, 1.0),
    "last third": (2 / 3, 1.0),
    "last quarter": (3 / 4, 1.0),
}
_ROUNDING = 1e-9  # a third of the depth is no binary number, and a written table has 10 digits


def rows_of(table: pd.DataFrame, part: str = LATE) -> pd.DataFrame:
    """The rows of one part of the blocks (a key of ``PARTS``); rows of the whole model have no depth and are left out.

    >>> rows_of(frame({"metric": "nmi", "block": i, "depth": (i + 1) / 3} for i in range(3)))["block"].tolist()
    [1, 2]
    """
    low, high = PARTS[part]
    return table[(table["depth"] > low + _ROUNDING) & (table["depth"] <= high + _ROUNDING)]


def blocks_of(values: np.ndarray, part: str = LATE) -> np.ndarray:
    """(n, blocks, ...) -> (n, kept, ...): the blocks of one part, of which there may be none.

    >>> blocks_of(np.array([[0, 1, 2, 3, 4]])).tolist()
    [[2, 3, 4]]
    """
    low, high = PARTS[part]
    depth = (np.arange(values.shape[1]) + 1) / values.shape[1]
    return values[:, (depth <= low + _ROUNDING).sum() : (depth <= high + _ROUNDING).sum()]


def late(values: np.ndarray) -> np.ndarray:
    """(n, blocks[, heads]) -> (n,): for each image the mean over the last half of the blocks and all heads.

    Undefined values are left out.

    >>> late(np.array([[9.0, 9.0, 1.0, np.nan], [9.0, 9.0, 2.0, 4.0]])).tolist()
    [1.0, 3.0]
    """
    return known_mean(blocks_of(values).reshape(len(values), -1))


def known_mean(values: np.ndarray) -> np.ndarray:
    """(..., n) -> (...): the mean over the last axis without undefined values; NaN where all are undefined."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def means_over_seeds(table: pd.DataFrame, fewest: int = 2) -> pd.DataFrame:
    """Rows without a seed: the means over the seeds of each measure, with Student's t-interval and ``n`` = seeds.

    A table of fewer seeds than ``fewest`` has no such rows: where there is one seed, its own rows say it all.
    """
    if table["seed"].nunique() < fewest:
        return frame([])
    keys = ["model", "metric", "block", "head", "x", "y", "objective", "reference"]
    kept = table[table["value"].notna() & table["seed"].notna()]
    rows: list[dict[Any, Any]] = []
    for _, group in kept.groupby(keys, sort=False, dropna=False):
        mean = t_interval(group["value"].to_numpy(float))
        first = group.iloc[0].to_dict()
        rows.append(first | {"seed": None, "n": len(group)} | mean.row)
    return frame(rows)
