"""What the figures, captions and the page read out of the one table: models, late blocks, plain means.

No statistic is computed here. A mean over blocks or heads is taken of the values and, separately, of
their bounds: the half-width of a mean is never larger than the mean of the half-widths, so the interval
is on the safe side. Where a table holds several seeds, the value is their mean and the interval reaches
from the lowest to the highest bound of any seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.records.table import is_value, values

Facts = Mapping[str, Any]

LATE_METRICS = (
    "distance",
    "distance_spread",
    "head_similarity",
    "head_similarity_shuffled",
    "entropy",
    "nmi",
    "nmi_shuffled",
    "r2_relative",
    "r2_absolute",
)
WHOLE_METRICS = (("training", "accuracy"), ("features", "teacher_r2"))


def separated(first: Estimate, second: Estimate) -> bool | None:
    """Whether two intervals do not overlap; None where one of them is unknown.

    Stricter than a test of the difference: separate intervals mean a difference, overlapping ones may
    still hide one that a paired comparison finds.
    """
    if not (first.bounded and second.bounded):
        return None
    return first.high < second.low or second.high < first.low


def rows(table: pd.DataFrame, probe: str, metric: str | None = None) -> pd.DataFrame:
    """The values (no differences) of a probe, and of one metric where named."""
    wanted = (table["probe"] == probe) & is_value(table)
    return table[wanted if metric is None else wanted & (table["metric"] == metric)]


def models(table: pd.DataFrame, facts: Facts, probe: str | None = None) -> list[str]:
    """The models of a probe in the order of ``facts["order"]``; others follow as they come."""
    kept = values(table[~table["probe"].isin(["ruler", "curve", "predict"])]) if probe is None else rows(table, probe)
    present = list(dict.fromkeys(kept["model"]))
    order = [label for label in facts.get("order", ()) if label in present]
    return order + [label for label in present if label not in order]


def families(table: pd.DataFrame) -> dict[str, str]:
    """Model -> display family."""
    known = table[table["family"] != ""]
    return dict(zip(known["model"], known["family"], strict=True))


def trained(names: Sequence[str], family: Mapping[str, str]) -> list[str]:
    """The models that are no untrained control; all of them where there is nothing else."""
    return [name for name in names if family.get(name) != "random"] or list(names)


def control_of(name: str, facts: Facts, present: Sequence[str]) -> str | None:
    """The untrained control of a model's design, where the table has it."""
    control = facts.get("controls", {}).get(name)
    return control if control in present and control != name else None


def late(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last half of the blocks (relative depth above one half)."""
    return table[table["depth"] > 0.5]


def late_blocks(table: pd.DataFrame, model: str) -> str:
    """``"blocks 3 to 4"``, counted from 1."""
    blocks = late(table[table["model"] == model])["block"].dropna()
    if blocks.empty:
        return "no blocks"
    first, last = int(blocks.min()) + 1, int(blocks.max()) + 1
    return f"block {first}" if first == last else f"blocks {first} to {last}"


def estimate(kept: pd.DataFrame) -> Estimate:
    """The plain mean of rows of one quantity and of their bounds; several seeds: see the module's text."""
    numbers = kept[["value", "low", "high", "seed", "n"]].to_numpy(float)  # a page asks hundreds of times
    numbers = numbers[~np.isnan(numbers[:, 0])]
    if not len(numbers):
        return UNKNOWN
    seeds, counts = np.nan_to_num(numbers[:, 3], nan=-1), numbers[:, 4]
    means = np.array([_means(numbers[seeds == seed, :3]) for seed in np.unique(seeds)])
    low, high = means[:, 1], means[:, 2]
    return Estimate(
        float(means[:, 0].mean()),
        math.nan if np.isnan(low).all() else float(np.nanmin(low)),
        math.nan if np.isnan(high).all() else float(np.nanmax(high)),
        0 if np.isnan(counts).all() else int(np.nanmax(counts)),
    )


def _means(columns: np.ndarray) -> np.ndarray:
    """The mean of each column over its known numbers; NaN where it has none."""
    known = ~np.isnan(columns)
    count = known.sum(0)
    return np.where(count, np.where(known, columns, 0).sum(0) / np.maximum(count, 1), np.nan)


def of_model(table: pd.DataFrame, probe: str, metric: str, model: str) -> Estimate:
    """A whole-model number; rows of single blocks are not part of it."""
    kept = rows(table, probe, metric)
    return estimate(kept[(kept["model"] == model) & kept["block"].isna()])


def late_mean(table: pd.DataFrame, metric: str, model: str, probe: str = "attention") -> Estimate:
    """The mean over the last half of the blocks (and all heads) of a metric."""
    kept = late(rows(table, probe, metric))
    return estimate(kept[kept["model"] == model])


def by_block(table: pd.DataFrame, metric: str, model: str, probe: str = "attention") -> pd.DataFrame:
    """Per block: mean over heads and seeds of value, low, high; columns block (from 1), depth, value, ..."""
    kept = rows(table, probe, metric)
    kept = kept[(kept["model"] == model) & kept["block"].notna()]
    mean = kept.groupby("block", as_index=False)[["depth", "value", "low", "high"]].mean()
    return mean.assign(block=mean["block"].astype(int) + 1)


def along(curve: pd.DataFrame, model: str) -> pd.DataFrame:
    """A model's rows by ``x``, from the lowest: several seeds as their mean, from the lowest to the highest bound."""
    own = curve[curve["model"] == model]
    kept = own[["x", "value", "low", "high"]].astype(float)
    return kept.groupby("x", as_index=False).agg({"value": "mean", "low": "min", "high": "max"})


def in_stages(facts: Facts, model: str) -> bool:
    """Whether the model's blocks have different uniform lines, so that a mean of pixels over blocks means nothing."""
    return len(set(facts.get("uniform_by_block_px", {}).get(model, ()))) > 1


def uniform_px(table: pd.DataFrame, facts: Facts, model: str) -> float:
    """The distance of uniform attention on the model's grid, from the facts or from distance / ratio.

    NaN where blocks have different grids or pixels (stages of windows): no one line is theirs.
    """
    if in_stages(facts, model):
        return math.nan
    stated = facts.get("uniform_px", {}).get(model)
    if stated is not None:
        return float(stated)
    kept = rows(table, "attention")
    kept = kept[(kept["model"] == model) & kept["metric"].isin(["distance", "distance_ratio"])]
    wide = kept.pivot_table(index=["seed", "block", "head"], columns="metric", values="value", dropna=False)
    if not {"distance", "distance_ratio"} <= set(wide.columns):
        return math.nan
    return float((wide["distance"] / wide["distance_ratio"]).median())


def summary(table: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """One row a model: accuracy, means over the last half of the blocks, teacher_r2.

    Columns: model, family, and for each number that the table has NAME, NAME_low, NAME_high; means over
    the last half of the blocks are named late_METRIC. Pixels of models in stages are not averaged: undefined.
    """
    names, family = models(table, facts), families(table)
    kinds: dict[str, dict[str, Estimate]] = {}
    for probe, metric in (WHOLE_METRICS[0], *(("attention", m) for m in LATE_METRICS), WHOLE_METRICS[1]):
        kept = rows(table, probe, metric)
        if kept.empty:
            continue
        if probe == "attention":
            pixels = metric.startswith("distance")
            kinds[f"late_{metric}"] = {
                name: UNKNOWN if pixels and in_stages(facts, name) else late_mean(kept, metric, name) for name in names
            }
        else:
            kinds[metric] = {name: of_model(kept, probe, metric, name) for name in names}
    result = pd.DataFrame({"model": names, "family": [family.get(name, "") for name in names]})
    for column, found in kinds.items():
        for ending, part in (("", "value"), ("_low", "low"), ("_high", "high")):
            result[column + ending] = [getattr(found[name], part) for name in names]
    return result


def is_share(metric: str) -> bool:
    """Whether a number between 0 and 1 is shown in per cent."""
    return metric in ("accuracy", "head_effect_share")


def show(value: Estimate, metric: str, unit: bool = False) -> str:
    """``"12.3 px (11.9 to 12.7)"``, ``"94.2 % (92 to 96)"``, ``"undefined"``."""
    metric = metric.removeprefix("late_")
    if not value.known:
        return "undefined"
    scale, suffix = (100.0, " %") if is_share(metric) else (1.0, " px" if metric.startswith("distance") else "")
    if metric == "distance_ratio":
        suffix = ""
    digits = decimals(metric, value.value)
    text = f"{value.value * scale:.{digits}f}" + (suffix if unit else "")
    if value.bounded:
        text += f" ({value.low * scale:.{digits}f} to {value.high * scale:.{digits}f})"
    return text.replace("-0.00", "0.00") if text.startswith("-0.00 ") else text


def decimals(metric: str, value: float) -> int:
    """Digits after the point: one for pixels and per cent (two below 2 px), two for shares."""
    if is_share(metric):
        return 1
    if metric.startswith("distance") and metric != "distance_ratio":
        return 1 if abs(value) >= 2 else 2
    return 2


def plain(value: float, form: str = ".2f") -> str:
    """A number without interval, or ``undefined``."""
    return format(float(value), form) if math.isfinite(value) else "undefined"


def readable(numbers: pd.DataFrame) -> pd.DataFrame:
    """``summary`` as text, an interval behind each value: for a terminal or the page."""
    text = numbers[["model", "family"]].copy()
    for column in numbers.columns:
        if column in text or column.endswith(("_low", "_high")):
            continue
        cells = zip(numbers[column], numbers[f"{column}_low"], numbers[f"{column}_high"], strict=True)
        text[column] = [show(Estimate(*cell), column) if pd.notna(cell[0]) else "–" for cell in cells]
    return text
