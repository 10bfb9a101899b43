"""How often claims say a word where nothing is true, and how often they find what is."""

from __future__ import annotations

import numpy as np
import pytest

from fdlab.compare.answers import (
    DOES_NOT_HOLD,
    NOT_ATTRIBUTABLE,
    SUPPORTED,
)
from fdlab.compare.claims import judge
from fdlab.compare.evidence import Evidence
from fdlab.compare.hypotheses import Measure
from fdlab.compare.over_seeds import power
from fdlab.compare.roles import Selector
from fdlab.compare.significance import mean_of_units, within
from fdlab.randomness import stream
from fdlab.records.table import frame
from tests.compare.simulated_cohort import (
    CONTROLS,
    TRUE,
    claim,
    cohort,
    members,
)

NULL = dict.fromkeys(TRUE, 0.5)


def null_cohorts(seeds: int, count: int) -> tuple[int, int]:
    """In how many cohorts, where nothing is true, some claim is supported, and in how many some does not hold."""
    models = [m for m in members(seeds, ("contrastive", "supervised")) if m.label.split()[0] != "random"]
    models = [m for m in models if not m.label.startswith("start")]
    names = ("a", "b")
    claims = [
        claim(id=name, controls=CONTROLS[:1], measures=[Measure(metric=[name], direction="up")]) for name in names
    ]
    supported = refuted = 0
    for trial in range(count):
        values = stream(trial, "null", seeds).normal(0, 1, (len(models), len(names)))
        rows = [
            {"model": model.label, "metric": name, "probe": "made", "value": value}
            for model, of_model in zip(models, values, strict=True)
            for name, value in zip(names, of_model, strict=True)
        ]
        found = judge(claims, cohort(models), Evidence([frame(rows)], {}, {}))
        words = {answer.verdict for v in found for answer in v.answers}
        supported += bool(words & {SUPPORTED, NOT_ATTRIBUTABLE})
        refuted += DOES_NOT_HOLD in words
    return supported, refuted


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 8, 20])
def test_where_nothing_is_true_words_come_in_at_most_one_of_twenty_cohorts(seeds: int) -> None:
    supported, refuted = null_cohorts(seeds, 200)
    assert supported <= 15 and refuted <= 15  # 5 % of 200 is 10; 15 has a chance of 5 % where the rate is 5 %


def test_where_nothing_is_true_words_are_rare() -> None:
    supported, refuted = null_cohorts(3, 25)
    assert supported <= 4 and refuted <= 4


def test_printed_power_is_the_simulated_one() -> None:
    """One group alone, eight seeds: the smallest effect said to be found with power 0.8 is found that often."""
    models = members(8, ("contrastive",))
    one = claim(controls=[], first=Selector(family="distilled", own_design=False, teacher="contrastive"))
    found, size = 0, 1.27  # power of a t-test of 8 differences of sd 1 at this effect is 0.86
    wanted = power(size, 2**0.5 * 0.707, 8, 7)
    for trial in range(300):
        draw = stream(trial, "power")
        rows = [
            {
                "model": m.label,
                "metric": "knn",
                "probe": "made",
                "value": draw.normal(size * (m.family == "distilled"), 0.707),
            }
            for m in models
        ]
        found += judge([one], cohort(models), Evidence([frame(rows)], {}, {}))[0].verdict == SUPPORTED
    assert found / 300 == pytest.approx(wanted, abs=0.06)


def test_equivalence_has_the_power_that_its_formula_says() -> None:
    """Twenty seeds, a difference of sd 1.12 points, a margin of one point: 0.97 at one-sided 5 %."""
    draws = stream(0, "equivalence").normal(0, 1.12, (4000, 20))
    assert np.mean([within(mean_of_units(units), 1.0) <= 0.05 for units in draws]) == pytest.approx(0.97, abs=0.01)
