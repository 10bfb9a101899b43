"""What tables and records hold about a combination of models: its value, interval and unit.

Every group (the seeds of one model) has a result of its own; groups are never averaged. Where a group has several
seeds, a seed is the unit, and groups with few seeds lend each other their scatter (``over_seeds``). With one seed the
images are the unit, from the records' per-image values; where there are none (accuracies), the rows' own intervals,
taken as independent. Then the result is about these checkpoints alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.hypotheses import SCORE
from fdlab.compare.over_seeds import over_seeds
from fdlab.compare.paired import same_images
from fdlab.compare.significance import mean_of_units, weighted_sum
from fdlab.errors import FdlabError
from fdlab.records.atomic import read_json
from fdlab.records.estimate import Estimate
from fdlab.records.means import blocks_of, known_mean, rows_of
from fdlab.records.metrics.names import OF_FINETUNING
from fdlab.records.spread import SPREADS, combined_spread
from fdlab.records.store import Record
from fdlab.records.table import at_last_step, join, values

# Probes whose rows are no measure of a model as it is, or one in another unit.
NO_VALUES = ("tuning", "ruler", "curve", "rank", "few_labels", "fine_tuned", "cells")
SEEDS, IMAGES, INTERVALS = "seeds", "images", "intervals"


class Combination(NamedTuple):
    """A sum of models' values, one of a group's seeds: ``terms`` are (factor, model)."""

    group: str
    seed: int | None
    terms: tuple[tuple[float, Member], ...]


@dataclass(frozen=True)
class Result:
    """The change of one group's combination: what its unit is (``SEEDS``, ``IMAGES``, ``INTERVALS``), how it scatters.

    ``units`` are the changes by seed, ``sd`` the standard deviation of one seed's change, ``freedom`` its degrees of
    freedom (infinite where the rows' own intervals were joined), ``pooled`` the groups that it rests on; ``notes``
    are sentences.
    """

    metric: str
    change: Estimate
    unit: str
    freedom: float
    sd: float = math.nan
    pooled: int = 1
    units: Mapping[int | None, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Missing(Exception):
    """What cannot be compared; its text says why."""


class Evidence:
    """Tables and the records beside them, asked by metric, blocks and models.

    Args:
        tables: tables of records; rows of probes in ``NO_VALUES`` are left out.
        records: (probe, model) -> folder of a record with per-image values.
        scores: label -> known fine-tuning score.
    """

    def __init__(
        self, tables: Iterable[pd.DataFrame], records: Mapping[tuple[str, str], Path], scores: Mapping[str, float]
    ) -> None:
        known = values(at_last_step(join(tables)))
        self.table = _without_means(known[~known["probe"].isin(NO_VALUES) & known["value"].notna()])
        groups = self.table.groupby(["model", "metric"], sort=False)
        self._rows = {(str(model), str(metric)): rows for (model, metric), rows in groups}
        self.records, self.scores = dict(records), dict(scores)
        self._by_seed_known: dict[tuple[str, str, str], dict[int | None, float]] = {}
        self._loaded: dict[Path, Record] = {}

    def metrics(self) -> set[str]:
        """All that was measured."""
        return set(self.table["metric"]) | ({SCORE} if self.scores else set())

    def changes(
        self, combinations: Sequence[Combination], metrics: Sequence[str], blocks: str, *, log: bool = False
    ) -> dict[str, Result]:
        """Group -> its change of the first of ``metrics`` that was measured on the models, over a part of the blocks.

        Args:
            log: of the decimal logarithms of the models' values.

        Raises:
            Missing: no combination has values, or none of those that have can be given an interval.
        """
        for metric in metrics:
            usable = [c for c in combinations if all(self._has(member, metric) for _, member in c.terms)]
            if usable:
                return self._changes(usable, combinations, metric, blocks, log)
        members = [member for combination in combinations for _, member in combination.terms]
        label = next((m.label for m in members if not any(self._has(m, metric) for metric in metrics)), "")
        raise Missing(f"{' or '.join(metrics)} was not measured" + (f" on {label}" if label else ""))

    def _changes(
        self, usable: Sequence[Combination], asked: Sequence[Combination], metric: str, blocks: str, log: bool
    ) -> dict[str, Result]:
        results: dict[str, Result] = {}
        seeded: dict[str, tuple[dict[int | None, float], list[str]]] = {}
        reasons: list[str] = []
        for group in dict.fromkeys(combination.group for combination in usable):
            mine = [combination for combination in usable if combination.group == group]
            left = [c.terms[0][1].label for c in asked if c.group == group and c not in usable]
            notes = [f"{metric} not measured for all that {', '.join(left)} needs"] if left else []
            notes += self._objectives(mine, metric)
            try:
                values, dropped = self._seeds(mine, metric, blocks, log)
                notes += [f"seeds {', '.join(map(str, dropped))} not in every model"] if dropped else []
                if len(values) > 1:
                    seeded[group] = values, notes
                elif dropped:
                    raise Missing(f"the models of {group} have not two seeds in common")
                else:
                    change, unit = self._one_seed(mine, metric, blocks, log)
                    freedom = math.inf if unit == INTERVALS else change.n - 1
                    results[group] = Result(metric, change, unit, freedom, notes=tuple(notes))
            except Missing as reason:
                reasons.append(str(reason))
        means = over_seeds({group: list(values.values()) for group, (values, _) in seeded.items()})
        for group, mean in means.items():
            values, notes = seeded[group]
            results[group] = Result(
                metric, mean.change, SEEDS, mean.freedom, mean.sd, mean.pooled, dict(values), tuple(notes)
            )
        if not results:
            raise Missing(reasons[0])
        return results

    def _seeds(
        self, mine: Sequence[Combination], metric: str, blocks: str, log: bool
    ) -> tuple[dict[int | None, float], list[int]]:
        """Seed -> value of one group's combination; and the seeds that some model of a combination lacks.

        Raises:
            Missing: models whose rows carry seeds have none in common.
        """
        found: dict[int | None, float] = {}
        dropped: set[int] = set()
        for _, seed, terms in mine:
            values = [(factor, self._by_seed(member.label, metric, blocks, log)) for factor, member in terms]
            several = [set(seeds) for _, seeds in values if len(seeds) > 1]
            if seed is None and several:  # a table whose rows carry the seeds
                shared = set.intersection(*(set(seeds) for _, seeds in values if set(seeds) != {None}))
                dropped |= {key for key in set.union(*several) - shared if key is not None}
                if not shared:
                    raise Missing(f"{' and '.join(member.label for _, member in terms)} have no seed in common")
                added = {
                    key: sum(factor * seeds.get(key, seeds.get(None, 0.0)) for factor, seeds in values)
                    for key in shared
                }
            else:
                added = {seed: sum(factor * float(np.mean(list(seeds.values()))) for factor, seeds in values)}
            found.update(added)
        return {key: found[key] for key in sorted(found, key=str)}, sorted(dropped)

    def by_setting(self, member: Member, metric: str, blocks: str) -> dict[str, dict[int | None, float]]:
        """Objective -> seed -> the model's value under it; empty where the metric was not measured."""
        found: dict[str, dict[int | None, float]] = {}
        if not self._has(member, metric) or metric == SCORE:
            return found
        for objective, rows in self._rows[member.label, metric].groupby("objective", sort=False):
            if not _is_curve(rows):
                whole = rows[rows["block"].isna()]
                kept = whole if len(whole) else rows_of(rows, blocks)
                means = kept["value"].groupby(kept["seed"].fillna(-1)).mean()
                found[str(objective)] = {None if key == -1 else int(str(key)): float(v) for key, v in means.items()}
        return found

    # --- the table ---------------------------------------------------------------------------------------

    def _has(self, member: Member, metric: str) -> bool:
        if metric == SCORE:
            return member.label in self.scores
        return (member.label, metric) in self._rows

    def rows(self, label: str, metric: str, blocks: str) -> pd.DataFrame:
        """The rows of a model that count: of one probe and objective; of the whole model, else of the blocks asked for.

        Raises:
            Missing: the rows are curves over x, or the model has no such blocks.
        """
        groups = [rows for _, rows in self._rows[label, metric].groupby(["probe", "objective"], sort=False)]
        rows = next((rows for rows in groups if not _is_curve(rows)), None)
        if rows is None:
            raise Missing(f"{metric} of {label} is a curve, not one number")
        whole = rows[rows["block"].isna()]
        if len(whole):
            return whole
        kept = rows_of(rows, blocks)
        if kept.empty:
            raise Missing(f"{label} has no blocks in its {blocks}")
        return kept

    def value(self, member: Member, metric: str, blocks: str) -> float:
        """A model's number, the mean of its seeds.

        Raises:
            Missing: it was not measured, or is no one number.
        """
        if not self._has(member, metric):
            raise Missing(f"{metric} was not measured on {member.label}")
        return float(np.mean(list(self._by_seed(member.label, metric, blocks).values())))

    def _by_seed(self, label: str, metric: str, blocks: str, log: bool = False) -> dict[int | None, float]:
        """A model's value for each seed of its rows; or its decimal logarithm, NaN of what has none."""
        if log:
            plain = self._by_seed(label, metric, blocks)
            return {seed: _log10(value) for seed, value in plain.items()}
        if metric == SCORE:
            return {None: self.scores[label]}
        key = (label, metric, blocks)
        if key not in self._by_seed_known:
            rows = self.rows(*key)
            means = rows["value"].groupby(rows["seed"].fillna(-1)).mean()
            self._by_seed_known[key] = {None if seed == -1 else int(str(seed)): float(v) for seed, v in means.items()}
        return self._by_seed_known[key]

    def _objectives(self, usable: Sequence[Combination], metric: str) -> list[str]:
        if metric == SCORE:
            return []
        labels = {member.label for combination in usable for _, member in combination.terms}
        first = {str(self._rows[label, metric]["objective"].iloc[0]) for label in labels}
        notes = [f"objectives differ: {', '.join(sorted(first))}"] if len(first) > 1 else []
        alone = [f"{OF_FINETUNING}: about these checkpoints only, not about their training"]
        return notes + (alone if OF_FINETUNING in first else [])

    # --- one seed ----------------------------------------------------------------------------------------

    def _one_seed(self, usable: Sequence[Combination], metric: str, blocks: str, log: bool) -> tuple[Estimate, str]:
        """The change and its unit: images where records of the same images are there, else the rows' intervals."""
        if metric == SCORE:
            raise Missing("one score a model has no interval: seeds are needed")
        factors: dict[str, float] = {}
        for combination in usable:
            for factor, member in combination.terms:
                factors[member.label] = factors.get(member.label, 0.0) + factor / len(usable)
        per_image = None if log else self._per_image(factors, metric, blocks)
        if per_image is not None:
            return per_image, IMAGES
        columns = ["value", "low", "high", "n"]
        means = [self.rows(label, metric, blocks)[columns].astype(float).mean() for label in factors]
        n = int(min((mean["n"] for mean in means if math.isfinite(mean["n"])), default=0))
        parts = [Estimate(mean["value"], mean["low"], mean["high"]) for mean in means]
        if log:
            parts = [Estimate(_log10(part.value), _log10(part.low), _log10(part.high)) for part in parts]
        change = weighted_sum(zip(factors.values(), parts, strict=True), n)
        if not change.bounded:
            raise Missing(f"one value of {metric} a model, without an interval: seeds are needed")
        return change, INTERVALS

    def _per_image(self, factors: Mapping[str, float], metric: str, blocks: str) -> Estimate | None:
        """From the records' per-image values; None where a model has none or they are of other images."""
        array = "distance" if metric in SPREADS else metric
        records = [record for label in factors if (record := self._record(label, array)) is not None]
        if len(records) < len(factors) or not all(same_images(records[0], record) for record in records[1:]):
            return None
        if metric in SPREADS:
            kept = [_kept(record.arrays[array], blocks) for record in records]
            return combined_spread(list(zip(factors.values(), kept, strict=True)), metric)
        value, units = 0.0, np.zeros(len(records[0].arrays[array]))
        for factor, record in zip(factors.values(), records, strict=True):
            mean, of_image = _image_values(record.arrays[array].astype(np.float64), blocks)
            value, units = value + factor * mean, units + factor * of_image
        return mean_of_units(units, value)

    def _record(self, label: str, array: str) -> Record | None:
        for (_, owner), path in self.records.items():
            if owner != label:
                continue
            if path not in self._loaded:
                try:
                    self._loaded[path] = Record.load(path)
                except FdlabError:
                    continue  # damaged: the table still has its rows
            record = self._loaded[path]
            values = record.arrays.get(array)
            if values is not None and values.shape[:1] == (record.manifest.get("images"),) and values.ndim <= 3:
                return record
        return None


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan


def _is_curve(rows: pd.DataFrame) -> bool:
    return bool((rows.groupby(["seed", "block", "head"], dropna=False)["x"].nunique() > 1).any())


def _without_means(table: pd.DataFrame) -> pd.DataFrame:
    """Without the rows that are means over the seeds whose own rows the table has."""
    seeded = table.loc[table["seed"].notna(), ["model", "probe", "metric"]].drop_duplicates()
    has_seeds = table.merge(seeded.assign(seeded=True), how="left", on=["model", "probe", "metric"])["seeded"].notna()
    return table[~(has_seeds.to_numpy() & table["seed"].isna().to_numpy())]


def _image_values(array: np.ndarray, blocks: str) -> tuple[float, np.ndarray]:
    """The value and its units (n,): means of an image."""
    if array.ndim == 1:
        return float(np.nanmean(array)), array
    kept = _kept(array, blocks)
    units = known_mean(kept.reshape(len(kept), -1))
    return float(np.nanmean(units)), units


def _kept(array: np.ndarray, blocks: str) -> np.ndarray:
    """(n, kept, ...): the blocks of one part."""
    kept = blocks_of(array, blocks)
    if not kept.shape[1]:
        raise Missing(f"no blocks in the {blocks}")
    return kept


def records_under(folder: Path) -> dict[tuple[str, str], Path]:
    """(probe, model) -> folder of the record, for all records of a report."""
    records = {}
    for path in sorted((folder / "records").rglob("manifest.json")):
        manifest = read_json(path)
        if "label" in manifest:
            records[(str(manifest.get("probe", "")), str(manifest["label"]))] = path.parent
    return records


def scores_of(cohort: Cohort) -> dict[str, float]:
    """Label -> known score, of the models that have one."""
    return {member.label: member.score for member in cohort.model if member.score is not None}
