"""Paired differences: what both models share cancels, depths are aligned, other images are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fdlab.compare.paired import NOT_COMPARABLE, paired_rows, paired_shares, same_pixels, unpaired_shares
from fdlab.randomness import stream
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import proportion_interval
from fdlab.records.store import Record
from fdlab.records.table import differences, frame, values

IMAGES = 64


def record(arrays: dict[str, np.ndarray], **manifest: Any) -> Record:
    base = {"probe": "attention", "images": IMAGES, "data_digest": "d", "seed": 0}
    return Record(frame([]), arrays, base | manifest)


def rows_of(first: Record, second: Record) -> pd.DataFrame:
    return frame(paired_rows({"a": first, "b": second}, [("a", "b")])[0])


def test_what_both_share_cancels() -> None:
    draw = stream(0, "paired")
    shared = draw.normal(0, 1, (IMAGES, 1, 1))
    noise = [draw.normal(0, 0.01, (IMAGES, 4, 3)) for _ in range(2)]
    table = rows_of(record({"entropy": 0.5 + shared + noise[0]}), record({"entropy": 0.4 + shared + noise[1]}))
    late = table[table["block"].isna()].iloc[0]
    assert late["value"] == pytest.approx(0.1, abs=0.005)
    assert late["high"] - late["low"] < 0.01  # unpaired, it would be about 0.7
    assert late["low"] < 0.1 < late["high"]
    assert late["n"] == IMAGES
    assert list(table[table["block"].notna()]["block"]) == [0, 1, 2, 3]
    assert differences(table).equals(table)
    assert values(table).empty


def test_the_late_mean_is_over_the_last_half_and_all_heads() -> None:
    first, second = np.zeros((IMAGES, 4, 2)), np.zeros((IMAGES, 4, 2))
    first[:, 2], first[:, 3, 0] = 1.0, 3.0
    second[:, 0] = 8.0  # an early block, which does not count
    table = rows_of(record({"nmi": first}), record({"nmi": second}))
    assert table[table["block"].isna()]["value"].iloc[0] == pytest.approx((1 + 1 + 3 + 0) / 4)
    assert table[table["block"] == 3]["value"].iloc[0] == pytest.approx(1.5)


def test_models_of_different_depth_are_aligned_and_it_is_said() -> None:
    deep, shallow = np.full((IMAGES, 12, 3), 0.7), np.full((IMAGES, 4, 6), 0.2)
    found, said = paired_rows({"a": record({"entropy": deep}), "b": record({"entropy": shallow})}, [("a", "b")])
    assert [row["value"] for row in found] == pytest.approx([0.5])
    assert any("different depths" in sentence for sentence in said)


def test_spread_over_heads_is_of_the_averaged_distances() -> None:
    draw = stream(1, "spread")
    own = np.stack([np.full((IMAGES, 2), 10.0), np.full((IMAGES, 2), 4.0)], -1) + draw.normal(0, 2, (IMAGES, 2, 2))
    other = np.full((IMAGES, 2, 2), 7.0) + draw.normal(0, 2, (IMAGES, 2, 2))
    table = rows_of(record({"distance": own}), record({"distance": other}))
    spread = table[table["metric"] == "distance_spread"].iloc[0]
    assert spread["value"] == pytest.approx(6.0, abs=0.7)
    assert spread["low"] < 6.0 < spread["high"]
    assert spread["low"] > 4


def test_equal_heads_of_noisier_models_spread_no_further() -> None:
    held = []
    for seed in range(40):
        draw = stream(seed, "equal heads")
        noisy, quiet = draw.normal(7, 4, (IMAGES, 2, 8)), draw.normal(7, 1, (IMAGES, 2, 8))
        table = rows_of(record({"distance": noisy}), record({"distance": quiet})).set_index("metric")
        spreads = table.loc[["distance_spread", "distance_sd"]]
        held += ((spreads["low"] <= 0) & (spreads["high"] >= 0)).tolist()
    assert np.mean(held) > 0.9  # the plain range is 1 px larger where images scatter more


def curves(fall: float, objective: str = "cosine", images: int = IMAGES) -> Record:
    """Linear deletion curves that end at 0 and, in the order of gradients, bend to the area ``fall``."""
    draw = stream(3, "curves")
    scale = draw.uniform(1, 3, (images, 1))
    arrays = {
        "deletion_random": scale * np.array([1.0, 0.5, 0.0]),
        "deletion_gradients": scale * np.array([1.0, 2 * fall - 0.5, 0.0]),
        "score_whole": scale[:, 0],
        "score_empty": np.zeros(images),
        "head_effect": scale[:, :, None] * np.full((images, 2, 2), fall),
    }
    rows = [{"metric": "deletion_curve_random", "x": x, "value": 1 - x} for x in (0.0, 0.5, 1.0)]
    made = record(arrays, probe="attribution", objective=objective, images=images)
    return Record(frame(rows), arrays, made.manifest)


@pytest.mark.parametrize("images", [IMAGES, 6])
def test_areas_gains_and_shares_of_scores_of_other_scale(images: int) -> None:
    first, second = curves(0.4, images=images), curves(0.3, images=images)
    for name in second.arrays:  # a model with ten times larger logits
        second.arrays[name] = 10 * second.arrays[name]
    table = rows_of(first, second).set_index("metric")
    assert set(table.index) == {
        "deletion_area_random", "deletion_area_gradients", "deletion_gain_gradients", "head_effect_share"
    }  # fmt: skip
    expected = {"deletion_area_random": 0.0, "deletion_area_gradients": 0.1, "deletion_gain_gradients": -0.1}
    for metric, value in (expected | {"head_effect_share": 0.1}).items():
        assert table.loc[metric, ["value", "low", "high"]].astype(float).tolist() == pytest.approx([value] * 3)


def test_undefined_shares_and_other_scores_have_no_difference() -> None:
    undefined = curves(0.4)
    row = {"metric": "deletion_area_random", "value": np.nan}
    undefined = Record(frame([*undefined.table.to_dict("records"), row]), undefined.arrays, undefined.manifest)
    assert "deletion_area_random" not in set(rows_of(undefined, curves(0.3))["metric"])
    found, said = paired_rows({"a": curves(0.4), "b": curves(0.3, "logit of the label")}, [("a", "b")])
    assert found == []
    assert "other scores (cosine and logit of the label)" in said[0]


TAUGHT = "teacher t abc, ridge, 4 folds, "


def taught(kept: list[float], teacher: str = TAUGHT) -> Record:
    """Each image's error is a share of its own distance to the position mean, the same in every image."""
    baseline = np.broadcast_to(stream(5, "baseline").uniform(1, 9, (IMAGES, 1)), (IMAGES, len(kept)))
    rows = [{"metric": "teacher_r2", "block": b, "objective": f"{teacher}block output"} for b in range(len(kept) - 1)]
    rows += [{"metric": "teacher_r2", "objective": f"{teacher}final tokens"}]
    made = record({"teacher_squares": np.stack([baseline * (1 - np.array(kept)), baseline], -1)}, probe="features")
    return Record(frame(rows), made.arrays, made.manifest)


def test_what_is_read_of_one_teacher_is_compared_on_the_same_images() -> None:
    table = rows_of(taught([0.2, 0.5, 0.9]), taught([0.1, 0.3, 0.6]))
    assert set(table["metric"]) == {"teacher_r2"}
    whole, blocks = table[table["block"].isna()], table[table["block"].notna()]
    for found, change in ((whole, [0.3]), (blocks, [0.1, 0.2])):
        for bound in ("value", "low", "high"):  # the images' own scatter, 1 to 9, cancels
            assert found[bound].tolist() == pytest.approx(change)
    assert whole["objective"].tolist() == [f"{TAUGHT}final tokens"]
    other_depth = rows_of(taught([0.2, 0.5, 0.9]), taught([0.3, 0.6]))
    assert other_depth["block"].isna().tolist() == [True]
    assert rows_of(taught([0.2, 0.9]), taught([0.1, 0.6], "teacher u def, ridge, 4 folds, ")).empty
    gridless = taught([0.2, 0.5, 0.9])
    gridless.arrays["teacher_squares"][:, 0] = np.nan
    assert rows_of(gridless, taught([0.1, 0.3, 0.6]))["block"].dropna().tolist() == [1]


def test_undefined_values_are_left_out() -> None:
    first = np.full((IMAGES, 2, 2), 0.5)
    first[:10] = np.nan
    table = rows_of(record({"nmi": first}), record({"nmi": np.full((IMAGES, 2, 2), 0.25)}))
    assert table[table["block"].isna()]["value"].iloc[0] == pytest.approx(0.25)


@pytest.mark.parametrize("change", [{"data_digest": "e"}, {"images": 32}, {"seed": 1}])
def test_other_images_are_refused(change: dict[str, Any]) -> None:
    arrays = {"entropy": np.ones((change.get("images", IMAGES), 2, 2))}
    other = record(arrays, **change)
    found, said = paired_rows({"a": record({"entropy": np.ones((IMAGES, 2, 2))}), "b": other}, [("a", "b")])
    assert found == []
    assert "not on the same images" in said[0]


def test_a_missing_model_is_said() -> None:
    found, said = paired_rows({"a": record({})}, [("a", "b")])
    assert found == []
    assert "b was not measured" in said[0]


def test_intervals_of_differences_cover() -> None:
    """95 % intervals of a paired difference of log-normal values hold the truth in about 95 of 100 draws."""
    covered = 0
    for trial in range(200):
        draw = stream(trial, "coverage")
        shared, own = draw.lognormal(0, 0.5, IMAGES), draw.normal(0.1, 0.3, IMAGES)
        table = rows_of(record({"entropy": (shared + own)[:, None]}), record({"entropy": shared[:, None]}))
        late = table[table["block"].isna()].iloc[0]
        covered += bool(late["low"] <= 0.1 <= late["high"])
    assert 0.90 <= covered / 200 <= 0.99


def test_pixels_of_different_grids_are_marked_and_nothing_else_is() -> None:
    draw = stream(2, "grids")
    arrays = {name: draw.uniform(1, 9, (IMAGES, 2, 2)) for name in ("distance", "distance_ratio")}
    grid = {"grid": [4, 4], "patch_size": 8, "image_size": 32, "windows": [1, 1]}
    same = rows_of(record(arrays, **grid), record(arrays, **grid))
    assert not (same["objective"] == NOT_COMPARABLE).any()
    # the distance of uniform attention is about the same on 4 x 4 patches of 8 px and on 8 x 8 of 4 px
    for other in ({"grid": [8, 8], "patch_size": 4}, {"image_size": 64, "patch_size": 16}, {"windows": [4, 1]}):
        table = rows_of(record(arrays, **grid), record(arrays, **{**grid, **other}))
        marked = table["objective"] == NOT_COMPARABLE
        assert set(table[marked]["metric"]) == {"distance", "distance_spread", "distance_sd"}
        assert set(table[~marked]["metric"]) == {"distance_ratio"}


def test_shares_of_right_answers_are_compared_answer_by_answer() -> None:
    """Two readouts that agree on most images: the pair knows their difference far better than two intervals do."""
    draw = stream(4, "answers")
    first = draw.uniform(0, 1, 400) < 0.7
    second = first.copy()
    second[np.flatnonzero(first)[:12]] = False
    readout = {"knn patch mean": first}, {"knn patch mean": second}
    records = [record(arrays, probe="features", images=400) for arrays in readout]
    row = rows_of(*records).iloc[0]
    assert (row["metric"], row["n"], row["value"]) == ("knn", 400, pytest.approx(0.03))
    assert row["low"] > 0.01 and row["high"] < 0.06
    own = [Estimate(a.mean(), *proportion_interval(int(a.sum()), 400)[1:3], 400) for a in (first, second)]
    apart = unpaired_shares(*own)
    assert apart.value == pytest.approx(0.03) and apart.low < 0 < apart.high
    back = paired_shares(second, first)
    assert (back.value, back.low, back.high) == pytest.approx((-row["value"], -row["high"], -row["low"]))


def test_the_interval_of_paired_shares_holds_the_truth() -> None:
    draw, inside = stream(6, "paired shares"), 0
    for _ in range(400):
        shared = draw.uniform(0, 1, 60)
        first, second = (shared < 0.7) ^ (draw.uniform(0, 1, 60) < 0.1), (shared < 0.6) ^ (draw.uniform(0, 1, 60) < 0.1)
        found = paired_shares(first, second)
        inside += found.low <= 0.08 <= found.high  # (0.7 - 0.6) (1 - 2 x 0.1)
    assert 0.93 <= inside / 400 <= 0.985


def test_models_of_other_depth_on_one_grid_have_the_same_pixels() -> None:
    def of(windows: list[int], grid: list[int]) -> Record:
        return Record(frame([]), {}, {"grid": grid, "patch_size": 4, "image_size": 32, "windows": windows})

    assert same_pixels(of([1, 1, 1], [8, 8]), of([1, 1, 1, 1, 1], [8, 8]))
    assert not same_pixels(of([1, 1, 1], [8, 8]), of([1, 1, 1], [4, 8]))
    assert not same_pixels(of([1, 1, 1], [8, 8]), of([4, 4, 1], [8, 8]))
