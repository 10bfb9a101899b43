"""Captions: four sentences that follow the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from mock_study import ALONE, MIM, RANDOM_A, RANDOM_B, SAME, STUDENT, TEACHER

from fdlab.records.estimate import Estimate
from fdlab.records.table import frame, join
from fdlab.report.captions import compared, listed, pair
from fdlab.report.figures import FIGURES, available, figure_of
from fdlab.report.numbers import readable
from fdlab.report.pairs import pairwise
from fdlab.report.report import Report

Facts = dict[str, Any]


def caption(figure: str, table: pd.DataFrame, facts: Facts) -> tuple[str, ...]:
    return figure_of(figure, Report(table, facts)).caption()


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("known", [True, False])
def test_four_sentences(figure: str, known: bool, table: pd.DataFrame, facts: Facts) -> None:
    words = caption(figure, table, facts if known else {})
    assert len(words) == 4
    for sentence in words:
        assert sentence.endswith(".")
        assert not sentence.endswith("..")
        assert sentence[0] == sentence[0].upper()
        assert sentence.count(". ") == 0, sentence


@pytest.mark.parametrize("figure", sorted(set(FIGURES) - {"ruler", "two_way"}))
def test_options_stand_in_every_caption_that_shows_such_a_model(figure: str, table: pd.DataFrame, facts: Facts) -> None:
    assert f"bias_scale 10 in {STUDENT}" in caption(figure, table, facts)[0]
    others = table[~table["model"].isin([STUDENT, ALONE, RANDOM_B])]
    assert "bias_scale" not in caption(figure, others, facts)[0]


@pytest.mark.parametrize("figure", ["attention_distance", "head_similarity", "position"])
def test_images_are_those_that_attention_saw(figure: str, table: pd.DataFrame, facts: Facts) -> None:
    attention = int(table.loc[table["probe"] == "attention", "n"].max())
    tested = table[table["metric"] == "accuracy"].assign(n=4 * attention)
    del facts["images"]
    assert f"over {attention} images of" in caption(figure, join([table, tested]), facts)[0]


def test_ruler_states_its_options(table: pd.DataFrame, facts: Facts) -> None:
    facts["options"] = {"locality 0.5": ["bias_scale 30"]}
    assert "bias_scale 30" in caption("ruler", table, facts)[0]


def test_separate_intervals_and_overlapping_ones(table: pd.DataFrame, facts: Facts) -> None:
    third = caption("attention_distance", table, facts)[2]
    assert "0.48 px (0.40 to 0.56)" in third
    assert "1.11 px (1.03 to 1.19)" in third
    assert f"{STUDENT} minus {TEACHER} is +0.63 (+0.52 to +0.74), two intervals taken as independent" in third
    assert "no clear difference" not in third
    wide = (table["metric"] == "distance_spread") & (table["model"] == STUDENT)
    table.loc[wide, "low"] = 0.3
    changed = caption("attention_distance", table, facts)[2]
    assert "1.11 px (0.30 to 1.19)" in changed
    assert "no clear difference" in changed


def test_no_interval_no_verdict(table: pd.DataFrame, facts: Facts) -> None:
    table.loc[table["model"] == STUDENT, ["low", "high"]] = np.nan
    for figure in ("attention_distance", "head_similarity", "position", "finetune"):
        third = caption(figure, table, facts)[2]
        assert "nothing is said about their order" in third
        assert "nan" not in third


def test_undefined_values_are_called_undefined(table: pd.DataFrame, facts: Facts) -> None:
    table.loc[(table["metric"] == "r2_relative") & (table["model"] == TEACHER), ["value", "low", "high"]] = np.nan
    third = caption("position", table, facts)[2]
    assert f"undefined for {TEACHER}" in third
    assert "nan" not in third


def test_accuracy_is_compared_by_the_interval_of_the_difference(table: pd.DataFrame, facts: Facts) -> None:
    third = caption("finetune", table, facts)[2]
    assert "94.8 % (92.9 to 96.7)" in third
    assert "no clear difference" in third
    worse = (table["metric"] == "accuracy") & (table["model"] == TEACHER)
    table.loc[worse, ["value", "low", "high"]] = (0.5, 0.48, 0.52)
    third = caption("finetune", table, facts)[2]
    assert f"{STUDENT} minus {TEACHER} is +" in third and "no clear difference" not in third
    assert "untrained start" not in third  # of these comparisons there are several, and none is corrected here


def test_teacher_states_the_loss_against_the_position_mean(table: pd.DataFrame, facts: Facts) -> None:
    third = caption("teacher", table, facts)[2]
    assert "0.011" in third
    assert "position mean alone gives 0.09" in third
    assert f"0.48 (0.46 to 0.50) in {RANDOM_B}" in third  # the control of the student's design
    del facts["position_only_loss"]
    assert "position mean alone" not in caption("teacher", table, facts)[2]


def test_ruler_speaks_of_both_ends(table: pd.DataFrame, facts: Facts) -> None:
    third = caption("ruler", table, facts)[2]
    assert "7.3 px (7.1 to 7.5) where the ideal is 4.0 px, outside of its interval, below the uniform" in third
    assert "above the uniform" in third
    top = (table["metric"] == "distance_weighted") & (table["x"] == 1)
    table.loc[top, "low"] = 15.0
    assert "not clearly apart from the uniform" in caption("ruler", table, facts)[2]


def test_another_architecture_is_said(table: pd.DataFrame, facts: Facts) -> None:
    assert "differ in architecture" in caption("attention_distance", table, facts)[3]
    same = facts | {"compare": (TEACHER, SAME)}
    words = caption("attention_distance", table, same)
    assert SAME in words[2]
    assert "differ in architecture" not in words[3]


def test_the_compared_pair_does_not_depend_on_the_numbers(table: pd.DataFrame, facts: Facts) -> None:
    report = Report(table, facts)
    assert pair(report, [TEACHER, MIM, STUDENT, SAME]) == (TEACHER, STUDENT)
    assert pair(report, [TEACHER, MIM, RANDOM_A]) == (TEACHER, MIM)
    assert pair(report, [TEACHER, RANDOM_B, RANDOM_A]) == (TEACHER, RANDOM_A)
    assert pair(report, [TEACHER]) is None


def test_one_model_alone_is_not_compared(table: pd.DataFrame, facts: Facts) -> None:
    alone = table[(table["model"] == STUDENT)]
    for figure in available(Report(alone)):
        words = caption(figure, alone, facts)
        assert "clear difference" not in words[2], figure
    assert "no second model" in caption("attention_distance", alone, facts)[2]


def test_the_interval_over_seeds_is_students_t_of_their_values(table: pd.DataFrame, facts: Facts) -> None:
    other = table.assign(seed=1).astype(table.dtypes)
    other[["value", "low", "high"]] += 0.2
    both = Report(join([table, other])).late_mean("entropy", STUDENT)
    one = Report(table).late_mean("entropy", STUDENT)
    assert both.value == pytest.approx(one.value + 0.1)
    half = 12.7062 * 0.1  # t of one degree of freedom, standard error of 0 and 0.2
    assert (both.low, both.high) == (
        pytest.approx(both.value - half, rel=1e-4),
        pytest.approx(both.value + half, rel=1e-4),
    )
    words = caption("attention_distance", join([table, other]), facts | {"seed": [0, 1]})
    assert "seeds 0 and 1" in words[0]
    assert "t-intervals over them" in words[3]
    block = Report(join([table, other])).by_block("entropy", STUDENT).iloc[-1]
    assert block["high"] - block["value"] == pytest.approx(half, rel=1e-4)


def test_late_means_are_of_the_last_half(table: pd.DataFrame) -> None:
    early = table["depth"] <= 0.5
    table.loc[early & (table["metric"] == "entropy"), ["value", "low", "high"]] = 99.0
    assert Report(table).late_mean("entropy", TEACHER).value < 1


def test_summary(table: pd.DataFrame, facts: Facts) -> None:
    numbers = Report(table, facts).summary()
    assert list(numbers["model"]) == facts["order"]
    row = numbers.set_index("model").loc[STUDENT]
    assert row["accuracy"] == pytest.approx(0.97)
    assert row["late_distance_spread"] == pytest.approx(1.11)
    assert row["teacher_r2_low"] == pytest.approx(0.89)
    text = readable(numbers).set_index("model")
    assert text.loc[STUDENT, "accuracy"] == "97.0 (95.5 to 98.5)"
    assert text.loc[TEACHER, "teacher_r2"] == "–"
    partial = Report(table[table["probe"] == "attention"], {}).summary()
    assert "accuracy" not in partial
    assert "late_nmi" in partial


def seeded(table: pd.DataFrame, values: dict[str, list[float]], half: float) -> pd.DataFrame:
    """Position shares of one block, a value a seed with an image interval of this half-width."""
    rows = [
        {
            "model": model,
            "family": "contrastive",
            "seed": seed,
            "probe": "attention",
            "metric": "r2_relative",
            "block": 0,
        }
        | {"depth": 1.0, "head": 0, "value": value, "low": value - half, "high": value + half, "n": 64}
        for model, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    return frame(rows)


def test_over_seeds_captions_take_the_paired_difference_not_the_overlap_of_intervals(table: pd.DataFrame) -> None:
    """Image intervals that lie apart in every seed are no difference of trainings; those that overlap may be one."""
    apart = seeded(table, {TEACHER: [0.10, 0.11, 0.12], STUDENT: [0.20, 0.70, 0.14]}, 0.001)
    facts = {"seed": [0, 1, 2], "order": [TEACHER, STUDENT]}
    third = caption("position", apart, facts)[2]
    assert "no clear difference" in third and "over 3 trainings each" in third
    shared = seeded(table, {TEACHER: [0.1, 0.5, 0.9], STUDENT: [0.15, 0.56, 0.95]}, 0.3)
    third = caption("position", shared, facts)[2]
    assert f"{STUDENT} minus {TEACHER} is +0.053 (+0.039 to +0.068), over 3 trainings each" in third
    assert "no clear difference" not in third
    report = Report(shared, facts)
    mean = report.late_mean("r2_relative", TEACHER)
    assert (mean.value, mean.high) == (pytest.approx(0.5), pytest.approx(0.5 + 4.302653 * 0.4 / 3**0.5))


def test_a_caption_and_the_pair_table_of_one_report_agree() -> None:
    """The intervals of the two models overlap; their paired difference over the same images does not hold 0."""
    rows = [
        {"model": model, "probe": "attention", "metric": "r2_relative", "block": 0, "depth": 1.0, "head": 0, "seed": 0}
        | {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 64}
        for model, value in (("a", 0.3), ("b", 0.35))
    ]
    same = {"probe": "attention", "metric": "r2_relative", "n": 64, "seed": 0}
    rows.append({"model": "b", "reference": "a", **same, "value": 0.05, "low": 0.03, "high": 0.07})
    report = Report(frame(rows), {})
    assert pairwise(report)["verdict"].tolist() == ["higher"]
    third = figure_of("position", report).caption()[2]
    assert "b minus a is +0.050 (+0.030 to +0.070), on the same images" in third
    assert "no clear difference" not in third


def test_pairs_say_what_survives_the_correction() -> None:
    rows = [
        {"model": "b", "reference": "a", "probe": "attention", "metric": name, "n": 64, "seed": 0, "value": 0.05}
        | {"low": 0.05 - half, "high": 0.05 + half}
        for name, half in (("nmi", 0.048), ("entropy", 0.01), ("r2_relative", 0.06), ("r2_absolute", 0.2))
    ]
    verdicts = pairwise(Report(frame(rows), {})).set_index("metric")["verdict"]
    assert verdicts.tolist() == ["higher, but not after correction", "higher", *["no clear difference"] * 2]


def test_listed() -> None:
    assert [listed(w) for w in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_each_number_stands_with_its_model_between_its_own_bounds() -> None:
    values = (Estimate(1.0, 0.9, 1.2), Estimate(2.0, 1.9, 2.3))
    difference = Estimate(1.0, 0.5, 1.5), "on the same images"
    sentence = compared("entropy", "entropy", values, ("A", "B"), difference, "block 3")
    assert sentence == (
        "In block 3, the entropy is 1.00 (0.90 to 1.20) in A and 2.00 (1.90 to 2.30) in B: "
        "B minus A is +1.00 (+0.50 to +1.50), on the same images, not corrected for the other comparisons of the page."
    )


def test_a_difference_has_its_sign() -> None:
    row = {"probe": "attention", "metric": "entropy", "reference": "B", "value": 0.5, "low": 0.4, "high": 0.6}
    up, down = {**row, "model": "A"}, {**row, "model": "C", "value": -0.5, "low": -0.6, "high": -0.4}
    unclear = {**row, "model": "D", "low": -0.1}
    table = pairwise(Report(frame([up, down, unclear]))).set_index("model")
    assert list(table["verdict"]) == ["higher", "lower", "no clear difference"]
    assert list(table["difference"])[:2] == ["+0.50 (+0.40 to +0.60)", "-0.50 (-0.60 to -0.40)"]


def test_facts_are_written_as_they_were_read() -> None:
    written = {"data": "digits", "unknown_key": [1], "seed": [0, 1], "images": None, "command": ""}
    facts = Report(frame([]), written).facts
    assert list(facts.written.items()) == list(written.items())
    assert (facts.data, facts.seeds, facts.images, facts.command) == ("digits", (0, 1), None, "")
    assert Report(frame([]), written).with_facts(title="T").facts.written == {**written, "title": "T"}


def test_what_moves_under_maps_is_said_from_the_controls_own_numbers(table: pd.DataFrame, facts: Facts) -> None:
    moved = (table["metric"] == "moved_sharpness_adaptive") & (table["x"] == 5)
    table.loc[moved, "value"] = 1.84
    table.loc[table["metric"].str.startswith("moved_noise"), "value"] = 1.0
    words = caption("sharpness", table, facts)[3]
    assert "adaptive, average to 1.8 times, a matrix inside each head" in words
    assert "noise to a rise of 0.1 to 1 times" in words
    without = table[~table["metric"].str.startswith("moved_")]
    assert "the adaptive ones under a matrix inside a head" in caption("sharpness", without, facts)[3]
