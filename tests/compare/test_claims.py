"""Simulated cohorts whose truth is known, and the answer that a claim must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fdlab.compare.answers import (
    DOES_NOT_HOLD,
    NOT_ATTRIBUTABLE,
    NOT_TESTED,
    ONE_SEED,
    SMALLER,
    SUPPORTED,
    UNDECIDED,
    Answer,
)
from fdlab.compare.claims import judge
from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence
from fdlab.compare.hypotheses import Measure, packaged_claims
from fdlab.compare.roles import Selector
from fdlab.randomness import stream
from fdlab.records.store import Record
from fdlab.records.table import frame
from tests.compare.simulated_cohort import (
    CONTRASTIVE,
    CONTROLS,
    SUPERVISED,
    TRUE,
    answers,
    claim,
    cohort,
    evidence,
    kind,
    members,
    packaged,
    verdict,
)


def width(of: Answer) -> float:
    """Of the effect's interval."""
    return of.effect.change.high - of.effect.change.low


def test_what_distilling_moves_in_both_designs_is_supported_for_every_teacher() -> None:
    found = verdict(TRUE)
    assert found.verdict == SUPPORTED and not found.differs
    assert set(answers(found)) == {CONTRASTIVE, SUPERVISED}
    for answer in found.answers:
        effect = answer.effect
        assert effect.change.value == pytest.approx(4.0, abs=0.2)
        assert effect.change.low < 4.0 < effect.change.high
        assert (effect.change.n, effect.result.unit, effect.result.freedom) == (5, "seeds", 8)  # two groups of five
        assert [c.control for c in answer.contrasts if c.role == "control"] == CONTROLS
        assert "the architecture differs too" in answer.not_controlled
        assert answer.side == "for"


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ({"own": 5.0, "undistilled": 9.0}, "in the teacher's own design the effect is not seen"),  # only the design
        ({"random-student": 9.0}, "the control moves about as far (random-teacher"),  # any distilling
        ({"undistilled": 9.0}, "the control moves about as far (undistilled"),
        ({"untrained": 9.0}, "the control moves about as far (untrained"),
        ({"random-student": 13.0}, "the control moves farther (random-teacher"),  # twice as far
    ],
)
def test_a_control_that_moves_as_far_takes_the_attribution_away_and_nothing_else(
    truth: dict[str, float], reason: str
) -> None:
    found = verdict(TRUE | truth)
    assert found.verdict == NOT_ATTRIBUTABLE
    assert any(reason in answer.why for answer in found.answers)
    assert all(answer.p_for < 0.001 and answer.p_against == 1.0 for answer in found.answers)


def test_reversed_effects_do_not_hold_whatever_the_controls_do() -> None:
    for control in (2.0, 5.0, 9.0):
        found = verdict(TRUE | {"student": 2.0, "own": 2.0, "random-student": control})
        assert found.verdict == DOES_NOT_HOLD
        assert all(answer.side == "against" for answer in found.answers)


def test_groups_of_opposite_sign_have_two_answers() -> None:
    models = members(5)
    shift = {CONTRASTIVE: -1.0, "contrastive into plain": -1.0, SUPERVISED: 3.0, "supervised into plain": 3.0}
    flat = TRUE | {"student": 5.0, "own": 5.0, "random-student": 5.0}
    found = judge([claim(controls=[])], cohort(models), evidence(models, {"knn": flat}, 0.1, shift))[0]
    mine = answers(found)
    assert (mine[CONTRASTIVE].verdict, mine[SUPERVISED].verdict) == (DOES_NOT_HOLD, SUPPORTED)
    assert mine[CONTRASTIVE].effect.change.value == pytest.approx(-1.0, abs=0.2)
    assert mine[SUPERVISED].effect.change.value == pytest.approx(3.0, abs=0.2)
    assert found.differs and found.verdict == DOES_NOT_HOLD  # a claim over groups is their intersection


def test_no_clear_effect_is_undecided_with_what_could_have_been_found() -> None:
    found = verdict(TRUE | {"student": 5.0, "own": 5.0}, scatter=1.0)
    assert found.verdict == UNDECIDED
    for answer in found.answers:
        assert 1.0 < answer.detectable < 6.0 and "includes both sides" in answer.why


def test_effects_within_the_margin_are_smaller_than_it() -> None:
    margin = claim(measures=[Measure(metric=["knn"], direction="up", margin="100 points")])
    assert verdict(TRUE | {"student": 5.0, "own": 5.0}, margin).verdict == SMALLER
    assert verdict(TRUE | {"student": 5.4, "own": 5.4}, margin).verdict == SMALLER  # seen, and too small to matter
    assert verdict(TRUE, margin).verdict == SUPPORTED
    assert verdict(TRUE | {"student": 5.0, "own": 5.0}, margin, scatter=3.0).verdict == UNDECIDED


def test_a_claim_of_no_change_is_supported_by_equivalence_and_refuted_beyond_the_margin() -> None:
    none = claim(controls=[], measures=[Measure(metric=["knn"], direction="none", margin="100 points")])
    assert verdict(TRUE | {"student": 5.1}, none).verdict == SUPPORTED
    assert verdict(TRUE, none).verdict == DOES_NOT_HOLD
    assert verdict(TRUE | {"student": 5.1}, none, scatter=3.0).verdict == UNDECIDED


def test_without_any_control_in_the_cohort_nothing_is_attributable() -> None:
    only = {"teacher": 5.0, "student": 9.0}
    found = verdict(only)
    assert found.verdict == NOT_ATTRIBUTABLE
    assert all("none of its controls" in answer.why for answer in found.answers)
    assert {f"no {name} control" for name in CONTROLS} <= set(found.answers[0].not_controlled)
    assert verdict(only, claim(controls=[])).verdict == SUPPORTED
    assert verdict({"teacher": 5.0, "student": 2.0}).verdict == DOES_NOT_HOLD  # that needs no control


def test_a_seeds_own_shift_cancels() -> None:
    models = members(4)
    found = judge([claim(controls=[])], cohort(models), evidence(models, {"knn": TRUE}, 0.1))[0]
    for answer in found.answers:
        assert answer.effect.change.value == pytest.approx(4.0, abs=0.3)
        assert width(answer) < 2 * 0.25 * 2.45  # 2.45: quantile of t, 6 df; shared shifts of a seed scatter by 0.5


def test_holm_over_the_file_takes_a_marginal_verdict_away() -> None:
    models = members(3)
    shown = evidence(models, {"knn": TRUE | {"student": 5.6}, "nmi": TRUE | {"student": 5.0}}, 0.2)
    alone = judge([claim(controls=[])], cohort(models), shown)[0].answers[1]
    assert alone.verdict == SUPPORTED and 0.0005 < alone.p < 0.025
    count = int(0.05 / alone.p) + 2
    other = [claim(id=str(i), controls=[], measures=[Measure(metric=["nmi"], direction="up")]) for i in range(count)]
    among = judge([claim(controls=[]), *other], cohort(models), shown)[0].answers[1]
    assert among.p == alone.p and among.p_holm is not None and among.p_holm > 0.05
    assert among.verdict == UNDECIDED and f"not after correction for {2 * count + 2} answers" in among.why


def test_every_deciding_measure_must_hold_and_the_others_are_beside() -> None:
    models = members(5)
    shown = evidence(models, {"knn": TRUE, "nmi": TRUE | {"student": 5.0, "own": 5.0}}, 0.05)
    both = [Measure(metric=["knn"], direction="up"), Measure(metric=["nmi"], direction="up")]
    assert judge([claim(measures=both)], cohort(models), shown)[0].verdict == UNDECIDED
    beside = [both[0], Measure(metric=["nmi"], direction="up", decides=False)]
    found = judge([claim(measures=beside)], cohort(models), shown)[0]
    assert found.verdict == SUPPORTED
    assert [c.role for c in found.answers[0].contrasts if c.result.metric == "nmi"] == ["beside"]


@pytest.mark.parametrize(("reached", "expected"), [(8.8, SUPPORTED), (5.2, DOES_NOT_HOLD), (7.0, UNDECIDED)])
def test_what_the_student_of_an_untrained_teacher_reaches(reached: float, expected: str) -> None:
    """Half of the student's change from 5 to 9 is at 7."""
    one = claim(controls=[], reached_by="random-teacher", share=0.5)
    found = verdict(TRUE | {"random-student": reached}, one)
    assert found.verdict == expected
    assert "beyond 0.5" in found.answers[0].effect.what


def test_one_teacher_for_all_seeds_is_said() -> None:
    models = [Member(label="t", source="x", family="contrastive")]
    models += [Member(label=f"s{i}", source="x", family="distilled", pair_of="t", group="s", seed=i) for i in range(3)]
    rows = [{"model": "t", "metric": "knn", "probe": "features", "value": 0.5, "seed": 0}]
    rows += [
        {"model": f"s{i}", "metric": "knn", "probe": "features", "value": 0.6 + i / 100, "seed": 0} for i in range(3)
    ]
    found = judge(
        [claim(first=Selector(family="distilled"), controls=[])], Cohort(model=models), Evidence([frame(rows)], {}, {})
    )[0]
    assert found.verdict == SUPPORTED
    assert "one checkpoint of t for all seeds" in found.answers[0].not_controlled
    assert "designs are not stated" in found.answers[0].not_controlled


def test_values_that_are_not_there_or_do_not_scatter_are_said() -> None:
    models = members(3)
    rows = [
        {"model": m.label, "metric": "knn", "probe": "made", "value": 1.0 + (m.family == "distilled")} for m in models
    ]
    flat = judge([claim(controls=[])], cohort(models), Evidence([frame(rows)], {}, {}))[0]
    assert flat.verdict == UNDECIDED and "without scatter test nothing" in flat.answers[0].why
    shown = evidence(models, {"knn": TRUE}, 0.1)
    shown.table.loc[shown.table["model"] == "contrastive 1", "value"] = np.nan
    part = Evidence([shown.table], {}, {})
    mine = answers(judge([claim(controls=[])], cohort(models), part)[0])
    assert mine[CONTRASTIVE].effect.change.n == 2 and mine[SUPERVISED].effect.change.n == 3
    assert any("not measured for all" in note for note in mine[CONTRASTIVE].not_controlled)


# --- one seed --------------------------------------------------------------------------------------------


def pair_with(folder: Path, own: np.ndarray, other: np.ndarray, metric: str, digest: str = "d") -> Evidence:
    """A student and its teacher with per-image arrays (n, blocks, heads) in records."""
    records, rows = {}, []
    for label, array, data in (("s", own, "d"), ("t", other, digest)):
        manifest = {"probe": "attention", "label": label, "images": len(array), "data_digest": data, "seed": 0}
        records["attention", label] = Record(frame([]), {metric: array}, manifest).save(folder / label)
        for block in range(array.shape[1]):
            for name in (metric, "distance_spread"):
                value = array[:, block].mean() if name == metric else np.ptp(array[:, block].mean(0))
                place = {"block": block, "depth": (block + 1) / array.shape[1]}
                rows.append({"model": label, "metric": name, "probe": "attention", "value": value, "seed": 0} | place)
    return Evidence([frame(rows)], records, {})


PAIR = Cohort(
    model=[
        Member(label="t", source="x", family="contrastive"),
        Member(label="s", source="x", family="distilled", pair_of="t"),
    ]
)


def test_with_one_seed_images_are_the_unit_and_there_is_no_verdict(tmp_path: Path) -> None:
    draw = stream(0, "images")
    shared = draw.normal(0, 1, (64, 1, 1))
    own, other = (level + shared + draw.normal(0, 0.05, (64, 4, 2)) for level in (0.3, 0.2))
    own[:, :3] -= 5  # only the last quarter counts
    found = judge(
        [claim(controls=[], blocks="last quarter", measures=[Measure(metric=["entropy"], direction="up")])],
        PAIR,
        pair_with(tmp_path, own, other, "entropy"),
    )[0]
    assert found.verdict == ONE_SEED  # clear over images, and still no verdict on the method
    effect = found.answers[0].effect
    assert (effect.result.unit, effect.change.n) == ("images", 64)
    assert effect.change.value == pytest.approx(0.1, abs=0.02) and effect.change.low > 0


def test_the_spread_over_heads_is_without_the_noise_of_images(tmp_path: Path) -> None:
    draw = stream(1, "spread")
    own = np.array([10.0, 4.0]) + draw.normal(0, 1, (64, 4, 2))
    other = np.array([7.0, 6.0]) + draw.normal(0, 1, (64, 4, 2))
    one = claim(controls=[], blocks="last half", measures=[Measure(metric=["distance_spread"], direction="up")])
    found = judge([one], PAIR, pair_with(tmp_path, own, other, "distance"))[0]
    effect = found.answers[0].effect
    expected = np.mean([np.ptp(own[:, b].mean(0)) - np.ptp(other[:, b].mean(0)) for b in (2, 3)])
    assert effect.change.value == pytest.approx(expected, abs=0.05)  # far apart: noise adds next to nothing
    # the true error: difference of four head means an image set, two blocks averaged
    assert width(found.answers[0]) == pytest.approx(2 * 2.0 * np.sqrt(4 / 64 / 2), rel=0.25)
    assert found.verdict == ONE_SEED


def test_other_images_are_not_paired(tmp_path: Path) -> None:
    array = np.ones((8, 2, 2))
    one = claim(controls=[], measures=[Measure(metric=["entropy"], direction="up")])
    found = judge([one], PAIR, pair_with(tmp_path, array + 1, array, "entropy", digest="other"))[0]
    assert found.verdict == NOT_TESTED
    assert "without an interval" in found.why


def test_one_accuracy_a_model_is_compared_by_its_interval() -> None:
    rows = [
        {"model": m, "metric": "accuracy", "probe": "training", "value": v, "low": v - 0.02, "high": v + 0.02, "n": 900}
        for m, v in (("t", 0.7), ("s", 0.8))
    ]
    one = claim(controls=[], measures=[Measure(metric=["best_accuracy", "accuracy"], direction="up")])
    found = judge([one], PAIR, Evidence([frame(rows)], {}, {}))[0]
    assert found.answers[0].effect.result.metric == "accuracy"
    assert width(found.answers[0]) == pytest.approx(2 * np.sqrt(2) * 0.02)
    assert found.verdict == ONE_SEED
    assert "intervals taken as independent" in found.answers[0].not_controlled


# --- the packaged claims -----------------------------------------------------------------------------------


def test_the_packaged_claims_on_a_whole_study() -> None:
    models = members(8)
    names = {m for one in packaged_claims() for measure in one.measures for m in measure.metric}
    fine = {"teacher": 0.5, "student": 0.9, "own": 0.9, "random-student": 0.4, "undistilled": 0.5, "untrained": 0.3}
    falling = {kind: 1 - value for kind, value in fine.items()} | {"untrained": 0.9}
    down = {"head_similarity", "head_similarity_centred", "r2_absolute", "sharpness_average", "linear_probe"}
    down |= {"eigenvalue_1", "eigenvalue_1_balanced"}
    truth = {name: falling if name in down else fine for name in names - {"best_accuracy", "score"}}
    # distilling moves what is in pixels by more than their margins
    truth |= {name: {k: 10 * v for k, v in fine.items()} for name in ("distance_spread", "distance_sd")}
    verdicts = {one.claim.id: one for one in judge(packaged_claims(), cohort(models), evidence(models, truth, 0.004))}
    assert list(verdicts) == ["P1", "P2", "M1", "M2", "M3"] + [f"H{i}" for i in range(1, 14)] + [
        f"C{i}" for i in range(1, 6)
    ]
    supported = {name for name, one in verdicts.items() if one.verdict == SUPPORTED}
    assert supported == {"H1", "H7", "H8", "H9", "H10", "H11"}
    assert verdicts["C2"].verdict == DOES_NOT_HOLD  # the random teacher's students do not change
    assert verdicts["H2"].verdict == DOES_NOT_HOLD  # the masked teacher's student gains 0.4 here, not about nothing
    untested = {name for name, one in verdicts.items() if one.verdict == NOT_TESTED}
    assert untested == {"H3", "H4", "H5", "H6", "H12", "H13", "C1", "C3", "C4"}
    assert all(verdicts[name].why for name in untested)
    assert "no model with family distilled, teacher image-text" in verdicts["C1"].why
    assert {verdicts[name].verdict for name in ("P2", "M3", "C5")} <= {UNDECIDED, SMALLER}  # teachers are alike here


def test_the_premises_are_two_and_a_reversed_one_does_not_hold() -> None:
    """Deep maps the same for every query, and deep heads less alike than those of masked models."""
    models = members(6)
    level = dict.fromkeys(TRUE, 0.5)
    absolute = evidence(models, {"r2_absolute": level}, 0.01, {"masked": -0.3, "masked in student design": -0.3}).table
    mutual = evidence(models, {"nmi": level}, 0.01, {"masked": 0.3, "masked in student design": 0.3}).table
    alike = evidence(models, {"head_similarity": level}, 0.01, {"masked": 0.3, "masked in student design": 0.3}).table
    found = judge([packaged("P1"), packaged("P2")], cohort(models), Evidence([absolute, mutual, alike], {}, {}))
    assert [one.verdict for one in found] == [SUPPORTED, DOES_NOT_HOLD]
    assert set(answers(found[1])) >= {"contrastive", "supervised"}


@pytest.mark.parametrize(("balanced", "expected"), [(-1.0, SUPPORTED), (0.0, UNDECIDED), (1.0, DOES_NOT_HOLD)])
def test_flatness_is_decided_by_the_balanced_eigenvalue_too(balanced: float, expected: str) -> None:
    models, draw = members(8, ("contrastive",)), stream(4, "flat")
    moved = {"student", "own"}
    rows = []
    for member in models:
        gain = kind(member) in moved
        noise = {"metric": "noise_to_rise", "value": 0.05 + 0.05 * gain + draw.normal(0, 0.002)}
        curve = {"metric": "eigenvalue_1_balanced", "value": 10 ** (1 + balanced * gain + draw.normal(0, 0.05))}
        rows += [{"model": member.label, "probe": "made", **each} for each in (noise, curve)]
    found = judge([packaged("H10")], cohort(models), Evidence([frame(rows)], {}, {}))[0]
    assert found.verdict == expected
