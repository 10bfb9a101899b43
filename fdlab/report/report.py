"""A report: the one table, what is known beside it, and all that figures, captions and the page ask of both.

No statistic is computed here. A mean over blocks or heads is taken of the values and, separately, of
their bounds: the half-width of a mean is never larger than the mean of the half-widths, so the interval
is on the safe side. Where a table holds several seeds, the value is their mean and the interval is Student's t over
the seeds' values (Cox's for what is positive and spreads over decades, such as eigenvalues); it then holds the scatter
of trainings, and that of images as far as these are drawn anew.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fdlab.compare.significance import mean_of_units, weighted_sum
from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.records.intervals import skewed_interval, t_interval
from fdlab.records.means import rows_of
from fdlab.records.metrics import METRICS
from fdlab.records.table import at_last_step, differences, is_value, values
from fdlab.report.facts import Facts

LATE_METRICS = (
    *("distance", "distance_spread", "head_similarity", "head_similarity_shuffled", "entropy"),
    *("nmi", "nmi_shuffled", "r2_relative", "r2_absolute"),
)
NOT_MODELS = ("ruler", "curve", "rank")  # probes whose rows speak of no model of the report
BOUNDED = ("value", "low", "high")


class Report:
    """The one table with its facts.

    Args:
        table: rows in the form of ``records.table``.
        facts: what is known beside it, as ``Facts`` or as the mapping that ``facts.json`` holds.
    """

    def __init__(self, table: pd.DataFrame, facts: Facts | Mapping[str, Any] | None = None) -> None:
        self.table = table
        self.state = at_last_step(table)  # without the earlier steps of models that were measured along a training
        self.facts = facts if isinstance(facts, Facts) else Facts.read(facts or {})
        self._rows: dict[tuple[str, str | None], pd.DataFrame] = {}

    def with_facts(self, **changes: Any) -> Report:
        """The same table with some facts changed."""
        return Report(self.table, {**self.facts.written, **changes})

    @cached_property
    def csv(self) -> bytes:
        """The table as ``records.table.write_table`` writes it."""
        return self.table.to_csv(index=False, float_format="%.10g").encode()

    @cached_property
    def digest(self) -> str:
        """The sha256 of the table as it is written."""
        return hashlib.sha256(self.csv).hexdigest()

    def rows(self, probe: str, metric: str | None = None) -> pd.DataFrame:
        """The values (no differences) of a probe, and of one metric where named; not to be written to."""
        key = (probe, metric)
        if key not in self._rows:
            if metric is None:
                found = self.state[(self.state["probe"] == probe) & is_value(self.state)]
            else:
                found = self.rows(probe)
                found = found[found["metric"] == metric]
            self._rows[key] = found
        return self._rows[key]

    def of(self, model: str, probe: str, metric: str | None = None) -> pd.DataFrame:
        """The rows of one model."""
        found = self.rows(probe, metric)
        return found[found["model"] == model]

    def has(self, probe: str, metric: str) -> bool:
        """Whether the table has values of a metric."""
        return not self.rows(probe, metric).empty

    def ordered(self, labels: Iterable[str]) -> list[str]:
        """Labels, each once, in the order of the facts; others follow as they come."""
        present = list(dict.fromkeys(labels))
        first = [label for label in self.facts.order if label in present]
        return first + [label for label in present if label not in first]

    @cached_property
    def stepped(self) -> pd.DataFrame:
        """The values that were measured along a training; no rows where the table has no steps."""
        if "step" not in self.table:
            return self.table.iloc[:0].assign(step=pd.array([], dtype="Int64"))
        return self.table[self.table["step"].notna() & is_value(self.table)]

    @cached_property
    def models(self) -> list[str]:
        """The models of the report in the order of the facts."""
        return self.ordered(values(self.table[~self.table["probe"].isin(NOT_MODELS)])["model"])

    def measured(self, probe: str, metric: str | None = None) -> list[str]:
        """The models that a probe (or one metric of it) has values of."""
        return self.ordered(self.rows(probe, metric)["model"])

    @cached_property
    def families(self) -> dict[str, str]:
        """Model -> family as it is drawn; models whose family is unknown are left out."""
        known = self.table[self.table["family"] != ""]
        return dict(zip(known["model"], known["family"], strict=True))

    @cached_property
    def lineages(self) -> tuple[dict[str, str], dict[str, str]]:
        """({student: its teacher}, {model: its lineage}) as far as the cohort says so."""
        members = {str(member["label"]): member for member in self.facts.cohort}
        teachers = {
            label: str(member["pair_of"])
            for label, member in members.items()
            if member.get("pair_of") and self.families.get(label, member.get("family")) == "distilled"
        }
        return teachers, {label: str(member["lineage"]) for label, member in members.items() if member.get("lineage")}

    def untrained(self, model: str) -> bool:
        """Whether the model is an untrained control."""
        return self.families.get(model) == "random"

    def trained(self, models: Sequence[str]) -> list[str]:
        """The models without untrained controls; all of them where there is nothing else."""
        return [model for model in models if not self.untrained(model)] or list(models)

    def control_of(self, model: str, present: Iterable[str]) -> str | None:
        """The untrained control of a model's design, where it is among those present."""
        control = self.facts.controls.get(model)
        return control if control is not None and control in set(present) and control != model else None

    def whole(self, probe: str, metric: str, model: str) -> Estimate:
        """A number of the whole model; rows of single blocks are not part of it."""
        found = self.of(model, probe, metric)
        return estimate(found[found["block"].isna()])

    def late_mean(self, metric: str, model: str, probe: str = "attention") -> Estimate:
        """The mean over the last half of the blocks (and all heads) of a metric."""
        return estimate(rows_of(self.of(model, probe, metric)))

    def difference(
        self, first: str, second: str, metric: str, probe: str, *, late: bool = False
    ) -> tuple[Estimate, str]:
        """The second model minus the first, and in words what its interval is over; unknown where neither is measured.

        Of the seeds that both have, where there are several: Student's t of the differences within seeds. With one seed
        the paired difference over the same images, where the table has it; else two intervals taken as independent.
        """
        rows = [self.of(name, probe, metric) for name in (first, second)]
        kept = [rows_of(found) if late else found[found["block"].isna()] for found in rows]
        means = [found["value"].groupby(_seed(found)).mean().dropna() for found in kept]
        common = means[0].index.intersection(means[1].index)
        if len(common) > 1:
            change = mean_of_units((means[1][common] - means[0][common]).to_numpy(float))
            return change, f"over {len(common)} trainings each, by their own scatter"
        paired = self._paired(first, second, metric, probe)
        if paired is not None:
            return paired, "on the same images"
        change = weighted_sum([(1.0, estimate(kept[1])), (-1.0, estimate(kept[0]))])
        return change, "two intervals taken as independent"

    def _paired(self, first: str, second: str, metric: str, probe: str) -> Estimate | None:
        """The table's own difference of two models over the same images, as second minus first."""
        found = differences(self.state)
        found = found[(found["probe"] == probe) & (found["metric"] == metric) & found["block"].isna()]
        for model, reference, sign in ((second, first, 1.0), (first, second, -1.0)):
            rows = found[(found["model"] == model) & (found["reference"] == reference)]
            if len(rows):
                one = estimate(rows)
                return one if sign > 0 else Estimate(-one.value, -one.high, -one.low, one.n)
        return None

    def late_blocks(self, metric: str, model: str, probe: str = "attention") -> str:
        """The last half of a model's blocks in words, counted from 1: ``"blocks 3 to 4"``."""
        blocks = rows_of(self.of(model, probe, metric))["block"].dropna()
        if blocks.empty:
            return "no blocks"
        first, last = int(blocks.min()) + 1, int(blocks.max()) + 1
        return f"block {first}" if first == last else f"blocks {first} to {last}"

    def by_block(self, metric: str, model: str, probe: str = "attention") -> pd.DataFrame:
        """Means over heads and seeds by block; columns block (from 1), depth, value, low, high."""
        found = self.of(model, probe, metric)
        by_seed = (
            found[found["block"].notna()].groupby(["block", _seed(found)], dropna=False)[["depth", *BOUNDED]].mean()
        )
        mean = _over_seeds(by_seed.reset_index(), "block").assign(
            depth=lambda each: each["block"].map(by_seed["depth"].groupby("block").first())
        )
        return mean.assign(block=mean["block"].astype(int) + 1)[["block", "depth", *BOUNDED]]

    def uniform_by_block(self, model: str) -> list[float]:
        """The distance of uniform attention in every block where blocks differ (stages of windows), else nothing."""
        lines = list(self.facts.uniform_by_block_px.get(model, ()))
        return lines if len(set(lines)) > 1 else []

    def uniform_px(self, model: str) -> float:
        """The distance of uniform attention on the model's grid, from the facts or from distance / ratio.

        NaN where blocks have different grids or pixels (stages of windows), so that no one line holds for the model.
        """
        if self.uniform_by_block(model):
            return math.nan
        stated = self.facts.uniform_px.get(model)
        if stated is not None:
            return float(stated)
        found = self.of(model, "attention")
        found = found[found["metric"].isin(["distance", "distance_ratio"])]
        wide = found.pivot_table(index=["seed", "block", "head"], columns="metric", values="value", dropna=False)
        if not {"distance", "distance_ratio"} <= set(wide.columns):
            return math.nan
        return float((wide["distance"] / wide["distance_ratio"]).median())

    def uniform_in(self, model: str, block: int) -> float:
        """The distance of uniform attention in a block (from 1)."""
        by_block = dict(enumerate(self.facts.uniform_by_block_px.get(model, ()), start=1))
        return by_block[block] if block in by_block else self.uniform_px(model)

    def summary(self) -> pd.DataFrame:
        """One row a model: accuracy, means over the last half of the blocks, teacher_r2.

        Columns: model, family, and for each number that the table has NAME, NAME_low, NAME_high; means over the
        last half of the blocks are named late_METRIC. Pixels of models in stages are not averaged: undefined.
        """
        columns: dict[str, list[Estimate]] = {}
        if self.has("training", "accuracy"):
            columns["accuracy"] = [self.whole("training", "accuracy", model) for model in self.models]
        for metric in LATE_METRICS:
            if self.has("attention", metric):
                pixels = metric.startswith("distance")
                columns[f"late_{metric}"] = [
                    UNKNOWN if pixels and self.uniform_by_block(model) else self.late_mean(metric, model)
                    for model in self.models
                ]
        if self.has("features", "teacher_r2"):
            columns["teacher_r2"] = [self.whole("features", "teacher_r2", model) for model in self.models]
        result = pd.DataFrame({"model": self.models, "family": [self.families.get(m, "") for m in self.models]})
        for name, estimates in columns.items():
            for ending, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                result[name + ending] = [getattr(number, part) for number in estimates]
        return result

    def headlines(self) -> dict[str, dict[str, Estimate]]:
        """Model -> column of the summary -> its number."""
        numbers = self.summary()
        columns = [name for name in numbers.columns[2:] if not name.endswith(("_low", "_high"))]
        return {
            str(row["model"]): {c: Estimate(row[c], row[f"{c}_low"], row[f"{c}_high"]) for c in columns}
            for row in numbers.to_dict("records")
        }


def estimate(rows: pd.DataFrame) -> Estimate:
    """The plain mean of rows of one quantity and of their bounds; several seeds: see the module's text."""
    numbers = rows[[*BOUNDED, "seed", "n"]].to_numpy(float)  # a page asks hundreds of times
    numbers = numbers[~np.isnan(numbers[:, 0])]
    if not len(numbers):
        return UNKNOWN
    seeds, counts = np.nan_to_num(numbers[:, 3], nan=-1), numbers[:, 4]
    means = np.array([_means(numbers[seeds == seed, :3]) for seed in np.unique(seeds)])
    n = 0 if np.isnan(counts).all() else int(np.nanmax(counts))
    if len(means) == 1:
        value, low, high = map(float, means[0])
        return Estimate(value, low, high, n)
    skewed = _skewed(rows) and (means[:, 0] > 0).all()
    over = skewed_interval(means[:, 0]) if skewed else t_interval(means[:, 0])
    return Estimate(over.value, over.low, over.high, n)


def _skewed(rows: pd.DataFrame) -> bool:
    """Whether these are rows of one metric that is positive and spreads over decades."""
    names = set(rows["metric"]) if "metric" in rows else set()
    return len(names) == 1 and next(iter(names)) in METRICS and METRICS[next(iter(names))].skewed


def _means(columns: np.ndarray) -> np.ndarray:
    """The mean of each column without NaN, which an infinite number stays in; NaN where all are NaN."""
    known = ~np.isnan(columns)
    count = known.sum(0)
    return np.where(count, np.where(known, columns, 0).sum(0) / np.maximum(count, 1), np.nan)


def estimate_at(rows: pd.DataFrame, block: int) -> Estimate:
    """The estimate of one block in rows as ``Report.by_block`` gives them; unknown where there is no such block."""
    there = rows[rows["block"] == block]
    return Estimate(*there.iloc[0][list(BOUNDED)]) if len(there) else UNKNOWN


def along(curve: pd.DataFrame, model: str) -> pd.DataFrame:
    """A model's rows by ``x``, from the lowest: several seeds as their mean with its t-interval over them."""
    kept = curve[curve["model"] == model]
    return _over_seeds(kept[["x", *BOUNDED]].astype(float), "x")


def _seed(rows: pd.DataFrame) -> pd.Series:
    """The seed of each row, -1 where it has none."""
    return rows["seed"].fillna(-1).astype("float64").rename("seed")


def _over_seeds(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """(key, value, low, high): rows of one key as they are, several (one a seed) as their mean with its t-interval."""
    lines = []
    for place, group in rows.groupby(key, sort=True):
        if len(group) == 1:
            lines.append((place, *group[list(BOUNDED)].to_numpy(float)[0]))
        else:
            mean = t_interval(group["value"].to_numpy(float))
            lines.append((place, mean.value, mean.low, mean.high))
    return pd.DataFrame(lines, columns=[key, *BOUNDED]).astype(float)
