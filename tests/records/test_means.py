"""Means over a part of the blocks and over seeds: which rows and blocks count, and what the interval is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdlab.records.intervals import t_interval
from fdlab.records.means import PARTS, blocks_of, late, means_over_seeds, rows_of
from fdlab.records.table import frame


@given(st.integers(1, 48), st.sampled_from(list(PARTS)))
def test_rows_and_arrays_agree_on_the_blocks_of_a_part(count: int, part: str) -> None:
    table = frame({"metric": "nmi", "block": block, "depth": (block + 1) / count} for block in range(count))
    kept = [int(block) for block in rows_of(table, part)["block"]]
    assert blocks_of(np.arange(count)[None], part)[0].tolist() == kept
    low, high = PARTS[part]
    assert kept == [block for block in range(count) if round(low * count, 6) < block + 1 <= round(high * count, 6)]


def test_the_late_mean_leaves_out_what_is_undefined() -> None:
    values = np.full((2, 4, 2), 100.0)
    values[0, 2:] = [[1.0, np.nan], [2.0, 6.0]]
    values[1, 2:] = np.nan
    np.testing.assert_allclose(late(values), [3.0, np.nan])


def test_means_over_seeds_are_of_one_measure_each_with_students_interval() -> None:
    seeds = {0: 0.2, 1: 0.4, 2: 0.9}
    rows = [
        {"model": "a", "metric": metric, "seed": seed, "value": scale * value, "n": 500}
        for seed, value in seeds.items()
        for metric, scale in (("accuracy", 1.0), ("loss", 3.0))
    ]
    means = means_over_seeds(frame([*rows, {"model": "a", "metric": "loss", "seed": 3}])).set_index("metric")
    assert means["seed"].isna().all()
    assert means["n"].tolist() == [3, 3]  # the seed without a value does not count
    expected = t_interval([0.6, 1.2, 2.7])
    assert tuple(means.loc["loss", ["value", "low", "high"]]) == pytest.approx(expected[:3])


def test_one_seed_has_no_mean() -> None:
    assert means_over_seeds(frame([{"model": "a", "metric": "loss", "seed": 0, "value": 1.0}])).empty
