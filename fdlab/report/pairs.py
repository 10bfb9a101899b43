"""The pairwise table of a page: every difference to another model, with its interval and what it allows to say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from fdlab.compare.paired import NOT_COMPARABLE
from fdlab.compare.significance import ALPHA, holm, two_sided
from fdlab.records.estimate import Estimate
from fdlab.records.means import rows_of
from fdlab.records.metrics import METRICS
from fdlab.records.table import differences
from fdlab.report.numbers import signed
from fdlab.report.report import Report, estimate

MOST = 40  # rows a page shows at once; table.csv has them all


class Change(NamedTuple):
    """A metric of one model minus that of another.

    ``late``: its mean over the last half of the blocks; ``comparable`` is False for pixels of different grids.
    """

    model: str
    reference: str
    metric: str
    late: bool
    value: Estimate
    comparable: bool = True


def changes(table: pd.DataFrame) -> Iterator[Change]:
    """The differences of a table: of the whole model where there are such rows, else over the last half of the blocks.

    The whole-model difference of a measure by block is its mean over the last half of the blocks; where there is
    none, bounds are averaged like values, which is on the safe side.
    """
    single = table[table["reference"] == ""]
    by_block = set(single.loc[single["block"].notna(), "metric"])
    with_whole = set(single.loc[single["block"].isna(), "metric"])
    for (model, reference, metric), rows in differences(table).groupby(["model", "reference", "metric"], sort=False):
        whole = rows[rows["block"].isna()]
        of_late = whole.empty or metric in by_block - with_whole
        value = estimate(rows_of(rows) if whole.empty else whole)
        comparable = not (rows["objective"] == NOT_COMPARABLE).any()
        yield Change(str(model), str(reference), str(metric), of_late, value, comparable)


def pairwise(report: Report) -> pd.DataFrame:
    """One row a model, reference and metric: columns model, minus, metric, difference, verdict (text).

    "higher" and "lower" survive Holm's correction over all rows.
    """
    place = {name: number for number, name in enumerate(report.models)}
    known = [change for change in changes(report.table) if change.value.known]
    known.sort(key=lambda change: (place.get(change.reference, len(place)), place.get(change.model, len(place))))
    adjusted = iter(holm([_p(change.value) for change in known if change.comparable]))
    lines = [
        {
            "model": change.model,
            "minus": change.reference,
            "metric": f"{_label(change.metric)}{', late blocks' if change.late else ''}",
            "difference": signed(change.metric, change.value) if change.comparable else "–",
            "verdict": _verdict(change.value, next(adjusted))
            if change.comparable
            else "not comparable (pixels of different grids)",
        }
        for change in known
    ]
    return pd.DataFrame(lines, columns=["model", "minus", "metric", "difference", "verdict"])


def _label(metric: str) -> str:
    return METRICS[metric].label if metric in METRICS else metric


def _p(change: Estimate) -> float:
    """Two-sided p of no difference, in agreement with the interval."""
    return two_sided(change, max(change.n - 1, 1) if change.n else math.inf)


def _verdict(change: Estimate, adjusted: float) -> str:
    """``adjusted``: the p after Holm's correction over all rows of the table."""
    if not change.bounded or change.low <= 0 <= change.high:
        return "no clear difference"
    word = "higher" if change.value > 0 else "lower"
    return word if adjusted <= ALPHA else f"{word}, but not after correction"
