"""How a number stands in a sentence, a table or a macro: its digits, its unit, its interval behind it."""

from __future__ import annotations

import math

import pandas as pd

from fdlab.records.estimate import Estimate
from fdlab.records.metrics.names import ACCURACIES


def is_share(metric: str) -> bool:
    """Whether a number between 0 and 1 is shown in per cent."""
    return metric in (*ACCURACIES, "head_effect_share")


def decimals(metric: str, value: float) -> int:
    """Digits after the point: one for pixels and per cent (two below 2 px), two for shares."""
    if is_share(metric):
        return 1
    if metric.startswith("distance") and metric != "distance_ratio":
        return 1 if abs(value) >= 2 else 2
    return 2


def show(number: Estimate, metric: str, unit: bool = False) -> str:
    """A number with its interval.

    >>> show(Estimate(12.34, 11.9, 12.7), "distance", unit=True), show(Estimate(0.942, 0.92, 0.96), "accuracy")
    ('12.3 px (11.9 to 12.7)', '94.2 (92.0 to 96.0)')
    """
    metric = metric.removeprefix("late_")
    if not number.known:
        return "undefined"
    scale, suffix = (100.0, " %") if is_share(metric) else (1.0, " px" if metric.startswith("distance") else "")
    if metric == "distance_ratio":
        suffix = ""
    digits = decimals(metric, number.value)
    text = f"{number.value * scale:.{digits}f}" + (suffix if unit else "")
    if number.bounded:
        text += f" ({number.low * scale:.{digits}f} to {number.high * scale:.{digits}f})"
    return text.replace("-0.00", "0.00") if text.startswith("-0.00 ") else text


def plain(value: float, form: str = ".2f") -> str:
    """A number without interval, or ``undefined``."""
    return format(float(value), form) if math.isfinite(value) else "undefined"


def spanned(number: Estimate, form: str = ".3g") -> str:
    """A number with its interval in a format of one's own: ``0.12 (0.1 to 0.14)``."""
    text = format(number.value, form)
    return f"{text} ({format(number.low, form)} to {format(number.high, form)})" if number.bounded else text


def signed(metric: str, change: Estimate) -> str:
    """A difference with its sign and interval.

    >>> signed("distance", Estimate(3.12, 1.2, 5.0)), signed("nmi", Estimate(0.012, float("nan"), float("nan")))
    ('+3.1 (+1.2 to +5.0)', '+0.012')
    """
    pixels = metric.startswith("distance")
    digits = decimals(metric, change.value) if is_share(metric) or pixels else _digits(change.value)
    scale, unit = (100.0, " points") if is_share(metric) else (1.0, "")
    text = f"{scale * change.value:+.{digits}f}{unit}"
    if change.bounded:
        text += f" ({scale * change.low:+.{digits}f} to {scale * change.high:+.{digits}f})"
    return text


def _digits(value: float) -> int:
    """Two significant digits at least, two decimals for numbers around one."""
    return 2 if not value or abs(value) >= 0.1 else min(6, 1 - math.floor(math.log10(abs(value))))


def readable(summary: pd.DataFrame) -> pd.DataFrame:
    """``Report.summary`` as text, an interval behind each value: for a terminal or the page."""
    text = summary[["model", "family"]].copy()
    for column in summary.columns:
        if column in text or column.endswith(("_low", "_high")):
            continue
        cells = zip(summary[column], summary[f"{column}_low"], summary[f"{column}_high"], strict=True)
        text[column] = [show(Estimate(*cell), column) if pd.notna(cell[0]) else "–" for cell in cells]
    return text
