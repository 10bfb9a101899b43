"""Simulated cohorts where a claim is true, false or undecided, and where a control turns its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdlab.compare.claims import CONTRADICTED, NOT_TESTED, SUPPORTED, UNDECIDED, Verdict, judge
from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence
from fdlab.compare.hypotheses import Claim, Measure, packaged_claims
from fdlab.compare.roles import Selector
from fdlab.randomness import stream
from fdlab.records.store import Record
from fdlab.records.table import frame
from tests.compare.simulated_cohort import TRUE, cohort, evidence, members

CONTROLS = ["own-design", "random-teacher", "undistilled", "untrained"]


def claim(**changes: Any) -> Claim:
    given: dict[str, Any] = {
        "id": "X",
        "statement": "Distilling raises it.",
        "first": Selector(family="distilled", own_design=False, teacher=["contrastive", "supervised"]),
        "controls": CONTROLS,
        "measures": [Measure(metric=["knn"], direction="up")],
    }
    return Claim(**(given | changes))


def verdict(truth: dict[str, float], one: Claim | None = None, seeds: int = 3, scatter: float = 0.05) -> Verdict:
    models = members(seeds)
    return judge([one or claim()], cohort(models), evidence(models, {"knn": truth}, scatter))[0]


def width(of: Verdict) -> float:
    """Of the effect's interval."""
    assert of.effect is not None
    return of.effect.change.high - of.effect.change.low


def test_a_true_claim_is_supported_against_every_control() -> None:
    found = verdict(TRUE)
    assert found.verdict == SUPPORTED
    effect = found.effect
    assert effect is not None
    assert effect.change.value == pytest.approx(4.0, abs=0.2)
    assert effect.change.low < 4.0 < effect.change.high
    assert (effect.change.n, effect.result.unit) == (3, "seeds")
    assert set(effect.result.by_group) == {"contrastive into student", "supervised into student"}
    assert [c.what.partition(":")[0] for c in found.contrasts if c.role == "control"] == CONTROLS
    assert "the architecture differs too" in found.not_controlled


@pytest.mark.parametrize(
    ("control", "value", "reason"),
    [
        ("random-student", 9.0, "the control moves as far (random-teacher"),
        ("undistilled", 9.0, "the control moves as far (undistilled"),
        ("untrained", 9.0, "the control moves as far (untrained"),
        ("own", 5.0, "in the teacher's own design the effect is not separated"),
    ],
)
def test_a_control_that_moves_as_far_takes_the_support_away(control: str, value: float, reason: str) -> None:
    found = verdict(TRUE | {control: value})
    assert found.verdict == UNDECIDED
    assert reason in found.why
    assert found.effect is not None and found.effect.p[0] < 0.01  # the effect itself is as clear as before


def test_a_control_that_moves_farther_contradicts() -> None:
    found = verdict(TRUE | {"random-student": 15.0})
    assert found.verdict == CONTRADICTED
    assert "random-teacher" in found.why


def test_false_and_undecided_claims() -> None:
    assert verdict(TRUE | {"student": 2.0, "own": 2.0}).verdict == CONTRADICTED
    assert verdict(TRUE | {"student": 5.0, "own": 5.0}, scatter=1.0).verdict == UNDECIDED
    smallest = claim(measures=[Measure(metric=["knn"], direction="up", smallest=6.0)])
    assert verdict(TRUE, smallest).verdict == CONTRADICTED  # clear, and clearly smaller than what matters


def test_without_any_control_in_the_cohort_nothing_is_supported() -> None:
    only = {"teacher": 5.0, "student": 9.0}
    found = verdict(only)
    assert found.verdict == UNDECIDED
    assert "none of its controls" in found.why
    assert {f"no {name} control" for name in CONTROLS} <= set(found.not_controlled)
    assert verdict(only, claim(controls=[])).verdict == SUPPORTED
    assert verdict({"teacher": 5.0, "student": 2.0}).verdict == CONTRADICTED  # that needs no control


def test_a_seeds_own_shift_cancels_and_teachers_are_averaged_within_it() -> None:
    models = members(4)
    shifted = {"supervised into student": -6.0}
    found = judge([claim(controls=[])], cohort(models), evidence(models, {"knn": TRUE}, 0.1, shifted))[0]
    assert found.effect is not None
    assert found.effect.change.value == pytest.approx((4.0 - 2.0) / 2, abs=0.2)
    assert width(found) < 2 * 0.2 * 3.19  # 3.19: quantile of t for 4 seeds; shared shifts of a seed scatter by 0.5
    assert found.effect.result.by_group["supervised into student"] == pytest.approx(-2.0, abs=0.2)


def test_holm_over_the_file_takes_a_marginal_verdict_away() -> None:
    models = members(3)
    shown = evidence(models, {"knn": TRUE, "nmi": TRUE | {"student": 5.0}}, 0.3)
    alone = judge([claim(controls=[])], cohort(models), shown)[0]
    assert alone.verdict == SUPPORTED and 0.0005 < alone.p < 0.05
    count = int(0.05 / alone.p) + 1
    other = [claim(id=str(i), controls=[], measures=[Measure(metric=["nmi"], direction="up")]) for i in range(count)]
    among = judge([claim(controls=[]), *other], cohort(models), shown)[0]
    assert among.p == alone.p and among.p_holm is not None and among.p_holm > 0.05
    assert among.verdict == UNDECIDED and "not after correction" in among.why


def test_every_deciding_measure_must_hold_and_the_others_are_beside() -> None:
    models = members(3)
    shown = evidence(models, {"knn": TRUE, "nmi": TRUE | {"student": 5.0, "own": 5.0}}, 0.05)
    both = [Measure(metric=["knn"], direction="up"), Measure(metric=["nmi"], direction="up")]
    assert judge([claim(measures=both)], cohort(models), shown)[0].verdict == UNDECIDED
    beside = [both[0], Measure(metric=["nmi"], direction="up", decides=False)]
    found = judge([claim(measures=beside)], cohort(models), shown)[0]
    assert found.verdict == SUPPORTED
    assert [c.role for c in found.contrasts if c.result.metric == "nmi"] == ["beside"]


@pytest.mark.parametrize(("reached", "expected"), [(8.8, SUPPORTED), (5.2, CONTRADICTED), (7.0, UNDECIDED)])
def test_what_the_student_of_an_untrained_teacher_reaches(reached: float, expected: str) -> None:
    """Half of the student's change from 5 to 9 is at 7."""
    one = claim(controls=[], reached_by="random-teacher", share=0.5)
    found = verdict(TRUE | {"random-student": reached}, one)
    assert found.verdict == expected
    assert found.effect is not None and "beyond 0.5" in found.effect.what


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
    assert "one checkpoint of t for all seeds" in found.not_controlled
    assert "designs are not stated" in found.not_controlled


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


def test_with_one_seed_images_are_the_unit_and_it_is_said(tmp_path: Path) -> None:
    draw = stream(0, "images")
    shared = draw.normal(0, 1, (64, 1, 1))
    own, other = (level + shared + draw.normal(0, 0.05, (64, 4, 2)) for level in (0.3, 0.2))
    own[:, :3] -= 5  # only the last quarter counts
    found = judge(
        [claim(controls=[], blocks="last quarter", measures=[Measure(metric=["entropy"], direction="up")])],
        PAIR,
        pair_with(tmp_path, own, other, "entropy"),
    )[0]
    assert found.verdict == SUPPORTED and found.effect is not None
    assert (found.effect.result.unit, found.effect.change.n) == ("images", 64)
    assert found.effect.change.value == pytest.approx(0.1, abs=0.02)
    assert any("these checkpoints only" in sentence for sentence in found.not_controlled)


def test_the_spread_over_heads_has_a_jackknife_over_images(tmp_path: Path) -> None:
    draw = stream(1, "spread")
    own = np.array([10.0, 4.0]) + draw.normal(0, 1, (64, 4, 2))
    other = np.array([7.0, 6.0]) + draw.normal(0, 1, (64, 4, 2))
    one = claim(controls=[], blocks="last half", measures=[Measure(metric=["distance_spread"], direction="up")])
    found = judge([one], PAIR, pair_with(tmp_path, own, other, "distance"))[0]
    effect = found.effect
    assert effect is not None
    expected = np.mean([np.ptp(own[:, b].mean(0)) - np.ptp(other[:, b].mean(0)) for b in (2, 3)])
    assert effect.change.value == pytest.approx(expected)
    # the true error: difference of four head means an image set, two blocks averaged
    assert width(found) == pytest.approx(2 * 2.0 * np.sqrt(4 / 64 / 2), rel=0.25)
    assert found.verdict == SUPPORTED


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
    assert found.effect is not None and found.effect.result.metric == "accuracy"
    assert width(found) == pytest.approx(2 * np.sqrt(2) * 0.02)
    assert found.verdict == SUPPORTED
    assert "intervals taken as independent" in found.not_controlled


# --- the packaged claims -----------------------------------------------------------------------------------


def test_the_packaged_claims_on_a_whole_study() -> None:
    models = members(5)
    names = {m for one in packaged_claims() for measure in one.measures for m in measure.metric} - {
        "best_accuracy",
        "score",
    }
    fine = {"teacher": 0.7, "student": 0.9, "own": 0.9, "random-student": 0.6, "undistilled": 0.7, "untrained": 0.3}
    falling = {kind: 1 - value for kind, value in fine.items()} | {"untrained": 0.9}
    down = {
        "head_similarity",
        "head_similarity_centred",
        "r2_absolute",
        "sharpness_average",
        "eigenvalue_1",
        "linear_probe",
    }
    truth = {name: falling if name in down else fine for name in names}
    verdicts = {one.claim.id: one for one in judge(packaged_claims(), cohort(models), evidence(models, truth, 0.004))}
    assert list(verdicts) == [f"H{i}" for i in range(1, 14)] + [f"C{i}" for i in range(1, 5)]
    assert {name for name, one in verdicts.items() if one.verdict == SUPPORTED} == {
        "H1",
        "H7",
        "H8",
        "H9",
        "H10",
        "H11",
    }
    assert verdicts["C2"].verdict == CONTRADICTED  # the random teacher's students do not change
    assert verdicts["H2"].verdict == CONTRADICTED  # the masked teacher's student gains 0.2 here, not about nothing
    untested = {name for name, one in verdicts.items() if one.verdict == NOT_TESTED}
    assert untested == {"H3", "H4", "H5", "H6", "H12", "H13", "C1", "C3", "C4"}
    assert all(verdicts[name].why for name in untested)
    assert "no model with family distilled, teacher image-text" in verdicts["C1"].why
    assert "variant no whitening" in verdicts["H4"].why
