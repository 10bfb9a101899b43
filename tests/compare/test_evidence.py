"""Which seeds a comparison rests on, where the rows of a table carry them."""

from __future__ import annotations

from typing import Any

import pytest

from fdlab.compare.cohort import Member
from fdlab.compare.evidence import SEEDS, Combination, Evidence, Missing
from fdlab.records.metrics.trainability import OF_FINETUNING
from fdlab.records.table import frame

A, B = Member(label="a", source="a"), Member(label="b", source="b")
MINUS = [Combination("a", None, ((1.0, A), (-1.0, B)))]


def evidence(a: dict[int | None, float], b: dict[int | None, float], **more: Any) -> Evidence:
    rows = [
        {"model": label, "seed": seed, "probe": "trainability", "metric": "nmi", "value": value, **more}
        for label, values in (("a", a), ("b", b))
        for seed, value in values.items()
    ]
    return Evidence([frame(rows)], {}, {})


def test_only_seeds_that_both_models_have_are_compared_and_the_rest_is_said() -> None:
    found = evidence({0: 1.0, 1: 5.0, 2: 9.0}, {0: 0.5, 1: 4.0, 3: 100.0}).change(MINUS, ["nmi"], "late")
    assert (found.unit, found.change.n, found.change.value) == (SEEDS, 2, pytest.approx(0.75))
    assert found.said == ["seeds 2, 3 not in every model"]


@pytest.mark.parametrize("b", [{0: 1.0}, {5: 1.0, 6: 2.0}])
def test_fewer_than_two_seeds_in_common_are_no_comparison(b: dict[int | None, float]) -> None:
    with pytest.raises(Missing, match="in common"):
        evidence({0: 1.0, 1: 5.0, 2: 9.0}, b).change(MINUS, ["nmi"], "late")


def test_means_over_seeds_are_no_further_seed() -> None:
    found = evidence({0: 1.0, 1: 5.0, None: 3.0}, {0: 0.0, 1: 3.0, None: 1.5}).change(MINUS, ["nmi"], "late")
    assert (found.change.n, found.change.value) == (2, pytest.approx(1.5))


def test_seeds_of_one_checkpoints_fine_tunings_are_said_to_be_that() -> None:
    found = evidence({0: 1.0, 1: 5.0}, {0: 0.0, 1: 3.0}, objective=OF_FINETUNING).change(MINUS, ["nmi"], "late")
    assert found.said == [f"{OF_FINETUNING}: about these checkpoints only, not about their training"]
