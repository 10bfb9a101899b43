"""The pairwise table of a page: every difference to another model, with its interval and what it allows to say."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fdlab.records.metrics import METRICS
from fdlab.records.table import differences
from fdlab.report.summary import Facts, decimals, estimate, is_share, late, models

MOST = 40  # rows a page shows at once; table.csv has them all


def pairwise(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """One row a model, reference and metric: columns model, minus, metric, difference, verdict (text).

    Whole-model differences as they are (of a measure by block: its mean over the last half of the blocks); where there
    are none, the mean over the last half, bounds averaged likewise, which is on the safe side.
    """
    found = differences(table)
    if found.empty:
        return pd.DataFrame(columns=["model", "minus", "metric", "difference", "verdict"])
    order = {name: place for place, name in enumerate(models(table, facts))}
    own_values = table[table["reference"] == ""]
    by_block = set(own_values.loc[own_values["block"].notna(), "metric"])
    by_block -= set(own_values.loc[own_values["block"].isna(), "metric"])  # the whole model has a value of its own
    lines: list[dict[str, Any]] = []
    for (model, reference, metric), own in found.groupby(["model", "reference", "metric"], sort=False):
        whole = own[own["block"].isna()]
        kept, where = (
            (whole if len(whole) else late(own)),
            (", late blocks" if metric in by_block or whole.empty else ""),
        )
        change = estimate(kept)
        if not change.known:
            continue
        apart = change.bounded and (change.low > 0 or change.high < 0)
        lines.append(
            {
                "model": str(model),
                "minus": str(reference),
                "metric": f"{METRICS[str(metric)].label if metric in METRICS else metric}{where}",
                "difference": signed(str(metric), change.value, change.low, change.high),
                "verdict": ("higher" if change.value > 0 else "lower") if apart else "not separated",
            }
        )
    lines.sort(key=lambda line: (order.get(line["minus"], len(order)), order.get(line["model"], len(order))))
    return pd.DataFrame(lines)


def signed(metric: str, value: float, low: float, high: float) -> str:
    """A difference with its sign and interval: ``+3.1 (1.2 to 5.0)``."""
    digits = decimals(metric, value) if is_share(metric) or metric.startswith("distance") else _digits(value)
    scale, unit = (100.0, " points") if is_share(metric) else (1.0, "")
    text = f"{scale * value:+.{digits}f}{unit}"
    if math.isfinite(low) and math.isfinite(high):
        text += f" ({scale * low:+.{digits}f} to {scale * high:+.{digits}f})"
    return text


def _digits(value: float) -> int:
    """Two significant digits at least, two decimals for numbers around one."""
    return 2 if not value or abs(value) >= 0.1 else min(6, 1 - math.floor(math.log10(abs(value))))
