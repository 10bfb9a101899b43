"""Claims that are no plain difference: peaks, interactions, mediation, ranks over settings, other trainings."""

from __future__ import annotations

import pytest

from fdlab.compare.answers import (
    DOES_NOT_HOLD,
    SUPPORTED,
    UNDECIDED,
)
from fdlab.compare.claims import judge
from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence
from fdlab.compare.hypotheses import Measure
from fdlab.randomness import stream
from fdlab.records.table import frame
from tests.compare.simulated_cohort import (
    answers,
    cohort,
    evidence,
    members,
    packaged,
)


def variants(values: dict[str, float], seeds: int = 6) -> tuple[Cohort, Evidence]:
    """Students of one teacher that differ in their variant alone; ``values``: variant -> truth."""
    draw = stream(0, "variants")
    models, rows = [], []
    for seed in range(seeds):
        models.append(Member(label=f"t {seed}", source="x", family="contrastive", design="p", group="t", seed=seed))
        rows.append({"model": f"t {seed}", "metric": "accuracy", "probe": "made", "value": 0.5 + draw.normal(0, 0.01)})
        for variant, value in values.items():
            label = f"s {variant} {seed}"
            models.append(
                Member(
                    label=label,
                    source="x",
                    family="distilled",
                    design="s",
                    group=f"s {variant}",
                    variant=variant,
                    pair_of=f"t {seed}",
                    seed=seed,
                )
            )
            rows.append({"model": label, "metric": "accuracy", "probe": "made", "value": value + draw.normal(0, 0.01)})
    return Cohort(model=models), Evidence([frame(rows)], {}, {})


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ((0.5, 0.6, 0.6, 0.5), SUPPORTED),
        ((0.6, 0.5, 0.5, 0.6), DOES_NOT_HOLD),
        ((0.5, 0.53, 0.56, 0.59), UNDECIDED),  # a straight rise is no peak
    ],
)
def test_a_peak_over_four_rates_is_told_from_a_rise(truth: tuple[float, ...], expected: str) -> None:
    names = ("no drop path", "", "drop path 0.2", "drop path 0.3")
    made = variants(dict(zip(names, truth, strict=True)))
    found = judge([packaged("H6")], *made)[0]
    assert found.verdict == expected
    assert found.answers[0].effect.change.value == pytest.approx(
        (truth[0] + truth[3] - truth[1] - truth[2]) / 2, abs=0.02
    )


@pytest.mark.parametrize(("large", "expected"), [(0.2, SUPPORTED), (0.1, UNDECIDED), (0.0, DOES_NOT_HOLD)])
def test_whitening_is_an_interaction_with_the_teachers_scale(large: float, expected: str) -> None:
    truth = {"": 0.6, "no whitening": 0.5, "large teacher": 0.6, "large teacher, no whitening": 0.6 - large}
    cohort_, shown = variants(truth)
    found = judge(
        [packaged("H4").model_copy(update={"measures": [Measure(metric="accuracy", direction="up")]})], cohort_, shown
    )
    assert found[0].verdict == expected
    assert found[0].answers[0].effect.change.value == pytest.approx(large - 0.1, abs=0.02)


@pytest.mark.parametrize(("carried", "expected"), [(1.0, SUPPORTED), (-1.0, DOES_NOT_HOLD), (0.0, UNDECIDED)])
def test_whether_attention_carries_accuracy_is_asked_within_groups(carried: float, expected: str) -> None:
    models, draw = members(12), stream(1, "carried")
    rows = []
    for member in models:
        attention = draw.normal(0.3, 0.1)
        accuracy = 0.5 + carried * attention + draw.normal(0, 0.02 if carried else 0.1)
        for metric, value in (("r2_relative", attention), ("accuracy", accuracy)):
            rows.append({"model": member.label, "metric": metric, "probe": "made", "value": value})
    found = judge([packaged("C5")], cohort(models), Evidence([frame(rows)], {}, {}))[0]
    assert found.verdict == expected


@pytest.mark.parametrize(("alike", "expected"), [(True, DOES_NOT_HOLD), (False, SUPPORTED)])
def test_ranks_over_settings_agree_or_flip(alike: bool, expected: str) -> None:
    models, draw = [m for m in members(6) if m.family != "random"], stream(2, "settings")
    places = {m.group: place for place, m in enumerate(m for m in models if m.seed == 0)}
    rows = []
    for member in models:
        for sign, objective in ((1, "probe"), (1 if alike else -1, "distill")):
            row = {"model": member.label, "metric": "noise_to_rise", "probe": "sharpness", "objective": objective}
            rows.append({**row, "value": sign * places[member.group] + draw.normal(0, 1.0)})
    kept = [m.model_copy(update={"pair_of": "", "control": ""}) for m in models]
    found = judge([packaged("C3")], Cohort(model=kept), Evidence([frame(rows)], {}, {}))[0]
    assert found.verdict == expected
    assert found.answers[0].effect.change.n == 6


def test_masked_models_are_compared_with_contrastive_ones_of_their_own_design() -> None:
    models = members(5)
    fine = {"teacher": 0.5, "undistilled": 0.5, "student": 0.5, "own": 0.5, "random-student": 0.5, "untrained": 0.5}
    shift = {"masked": 0.3, "masked in student design": -0.3}
    found = judge([packaged("M3")], cohort(models), evidence(models, {"accuracy": fine}, 0.01, shift))[0]
    mine = answers(found)
    assert mine["masked"].verdict == SUPPORTED and mine["masked"].effect.change.value == pytest.approx(0.3, abs=0.03)
    assert mine["masked in student design"].verdict == DOES_NOT_HOLD
    assert all("the architecture differs too" not in answer.not_controlled for answer in found.answers)
