"""Two factors and their interaction over seeds: what belongs to the design, what to the distillation, what to both.

For one kind of pre-training and one seed there are four models, design (plain p, student s) by distilled (0, 1):

    design       ((s0 - p0) + (s1 - p1)) / 2
    distillation ((p1 - p0) + (s1 - s0)) / 2
    interaction  (s1 - s0) - (p1 - p0)
    together     s1 - p0 = design + distillation: a student of the other design against its teacher, as the paper
                 compares them

Each is a contrast of one seed's models; the interval is Student's t over seeds, which are the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fdlab.compare.significance import even
from fdlab.records.intervals import t_interval
from fdlab.records.table import frame

PROBE = "two_way"
# Weights of p0, p1, s0, s1.
EFFECTS: dict[str, tuple[float, float, float, float]] = {
    "design": (-0.5, -0.5, 0.5, 0.5),
    "distillation": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
    "together": (-1.0, 0.0, 0.0, 1.0),
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
        four models. One seed gives values without interval; a measure without a complete seed gives no row.
    """
    rows: list[dict[str, Any]] = []
    known = values[values["model"].isin(places) & values["value"].notna()]
    for measure, group in _by_measure(known):
        for kind in dict.fromkeys(place[0] for place in places.values()):
            complete = _corners(group, kind, places)
            for effect, weights in EFFECTS.items():
                if len(complete):
                    effects = complete @ np.array(weights)
                    rows.append(_row(kind, families.get(kind, ""), measure, effect, effects))
    return frame(rows)


def _by_measure(values: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    for measure, group in values.groupby(KEYS, sort=False, dropna=False):
        yield tuple(measure), group  # type: ignore[arg-type]  # several keys give a tuple


def _corners(group: pd.DataFrame, kind: str, places: Mapping[str, tuple[str, str, bool]]) -> np.ndarray:
    """(seeds, 4): the values at ``CORNERS`` of the seeds that have all four."""
    labels = {place[1:]: label for label, place in places.items() if place[0] == kind}
    if not all(corner in labels for corner in CORNERS):
        return np.empty((0, 4))
    wide = group.pivot_table(index="seed", columns="model", values="value", aggfunc="first")
    wide = wide.reindex(columns=[labels[corner] for corner in CORNERS])
    return wide.dropna().to_numpy(float)


def _row(kind: str, family: str, measure: tuple[Any, ...], effect: str, of_seeds: np.ndarray) -> dict[str, Any]:
    bounds = t_interval(of_seeds).row
    if even(of_seeds):
        bounds["low"] = bounds["high"] = np.nan  # no scatter between few seeds is no certainty
    common = {"model": kind, "family": family, "probe": PROBE, "reference": effect}
    return {**common, **dict(zip(KEYS, measure, strict=True)), **bounds, "n": len(of_seeds)}
