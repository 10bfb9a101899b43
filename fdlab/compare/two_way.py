"""Two factors over seeds: what a distilled student gains, and whether design or distillation is behind it.

For one kind of pre-training and one seed there are four models, design (plain p, student s) by distilled (0, 1). The
teacher is p0; p1 and s1 are its students in the two designs; s0 is the student's design trained as the teacher was.

    together          s1 - p0   the paper's comparison: its student against the teacher
    own design        p1 - p0   distilled into the teacher's own design, against the teacher
    student's design  s1 - s0   distilled from the plain teacher, against the same design trained directly
    design            s0 - p0   both designs trained directly
    design distilled  s1 - p1   the same teacher distilled into both designs
    interaction       (s1 - s0) - (p1 - p0)

There are no main effects. The two effects that "distillation" would average ask other questions, since nobody
distilled a teacher of the student's design; and a mean of two effects of opposite sign is neither. Each effect is a
contrast of one seed's models; seeds are the unit, and the kinds of pre-training lend each other their scatter
(``over_seeds``). Holm's correction is over all effects of a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fdlab.compare.over_seeds import OverSeeds, over_seeds
from fdlab.compare.significance import holm, two_sided
from fdlab.records.table import frame

PROBE = "two_way"
BY_SEED = "two_way_seeds"  # the same effects of each seed
HOLM = "two_way_holm"  # the two-sided p of each effect after Holm's correction, in ``value``
TOGETHER, OWN, STUDENTS, INTERACTION = "together", "own design", "student's design", "interaction"
DESIGN, DESIGN_DISTILLED = "design", "design distilled"
# Weights of p0, p1, s0, s1.
EFFECTS: dict[str, tuple[float, float, float, float]] = {
    TOGETHER: (-1.0, 0.0, 0.0, 1.0),
    OWN: (-1.0, 1.0, 0.0, 0.0),
    STUDENTS: (0.0, 0.0, -1.0, 1.0),
    DESIGN: (-1.0, 0.0, 1.0, 0.0),
    DESIGN_DISTILLED: (0.0, -1.0, 0.0, 1.0),
    INTERACTION: (1.0, -1.0, -1.0, 1.0),
}
CORNERS = (("plain", False), ("plain", True), ("student", False), ("student", True))
KEYS = ["metric", "objective", "x", "unit"]


def two_way(
    values: pd.DataFrame, places: Mapping[str, tuple[str, str, bool]], families: Mapping[str, str]
) -> pd.DataFrame:
    """The table of effects.

    Args:
        values: rows of one number a model, seed and measure (columns of the one table); a measure is its metric,
            objective, x and unit.
        places: model label -> (kind, design, distilled); other models are left out.
        families: kind -> display family.

    Returns:
        Rows of probe ``two_way``: ``model`` is the kind, ``reference`` the effect, ``n`` the seeds that have all
        four models; of ``two_way_seeds``, the same of each seed; of ``two_way_holm``, the p of each effect after
        Holm's correction over the table, where there is one. One seed gives values without interval; a measure
        without a complete seed gives no row.
    """
    found = list(_effects(values[values["model"].isin(places) & values["value"].notna()], places))
    ps = [_p(mean) for *_, mean, _ in found]
    adjusted = iter(holm([p for p in ps if not math.isnan(p)]))
    rows: list[dict[str, Any]] = []
    for (kind, measure, effect, mean, of_seeds), p in zip(found, ps, strict=True):
        same = {"model": kind, "family": families.get(kind, ""), "reference": effect}
        same |= dict(zip(KEYS, measure, strict=True))
        rows.append({**same, "probe": PROBE, **_bounds(mean), "n": len(of_seeds)})
        rows += [{**same, "probe": BY_SEED, "seed": seed, "value": value} for seed, value in of_seeds.items()]
        if not math.isnan(p):
            rows.append({**same, "probe": HOLM, "unit": "", "value": next(adjusted), "n": len(of_seeds)})
    return frame(rows)


def _effects(
    known: pd.DataFrame, places: Mapping[str, tuple[str, str, bool]]
) -> Iterator[tuple[str, tuple[Any, ...], str, OverSeeds, dict[int, float]]]:
    """(kind, measure, effect, its mean over seeds, seed -> effect), of every measure that has a complete seed."""
    kinds = list(dict.fromkeys(place[0] for place in places.values()))
    for measure, group in known.groupby(KEYS, sort=False, dropna=False):
        corners = {kind: _corners(group, kind, places) for kind in kinds}
        corners = {kind: wide for kind, wide in corners.items() if len(wide)}
        for kind in corners:
            for effect, weights in EFFECTS.items():
                units = {each: wide.to_numpy(float) @ np.array(weights) for each, wide in corners.items()}
                of_seeds = dict(zip(map(int, corners[kind].index), map(float, units[kind]), strict=True))
                yield kind, tuple(measure), effect, over_seeds({k: list(v) for k, v in units.items()})[kind], of_seeds  # type: ignore[arg-type]


def _corners(group: pd.DataFrame, kind: str, places: Mapping[str, tuple[str, str, bool]]) -> pd.DataFrame:
    """(seeds, 4): the values at ``CORNERS`` of the seeds that have all four; the index are the seeds."""
    labels = {place[1:]: label for label, place in places.items() if place[0] == kind}
    if not all(corner in labels for corner in CORNERS):
        return pd.DataFrame()
    wide = group.pivot_table(index="seed", columns="model", values="value", aggfunc="first")
    return wide.reindex(columns=[labels[corner] for corner in CORNERS]).dropna()


def _bounds(mean: OverSeeds) -> dict[str, float]:
    bounds = mean.change.row
    if mean.sd == 0:
        bounds["low"] = bounds["high"] = np.nan  # no scatter between few seeds is no certainty
    return bounds


def _p(mean: OverSeeds) -> float:
    """Two-sided p of no effect; NaN where there is no scatter to test by."""
    if not (mean.change.bounded and mean.sd > 0):
        return math.nan
    return two_sided(mean.change, mean.freedom)
