"""Which seeds a comparison rests on, where the rows of a table carry them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fdlab.compare.cohort import Member
from fdlab.compare.evidence import SEEDS, Combination, Evidence, Missing
from fdlab.records.metrics.names import OF_FINETUNING
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
    found = evidence({0: 1.0, 1: 5.0, 2: 9.0}, {0: 0.5, 1: 4.0, 3: 100.0}).changes(MINUS, ["nmi"], "late")["a"]
    assert (found.unit, found.change.n, found.change.value) == (SEEDS, 2, pytest.approx(0.75))
    assert list(found.notes) == ["seeds 2, 3 not in every model"]


@pytest.mark.parametrize("b", [{0: 1.0}, {5: 1.0, 6: 2.0}])
def test_fewer_than_two_seeds_in_common_are_no_comparison(b: dict[int | None, float]) -> None:
    with pytest.raises(Missing, match="in common"):
        evidence({0: 1.0, 1: 5.0, 2: 9.0}, b).changes(MINUS, ["nmi"], "late")["a"]


def test_means_over_seeds_are_no_further_seed() -> None:
    found = evidence({0: 1.0, 1: 5.0, None: 3.0}, {0: 0.0, 1: 3.0, None: 1.5}).changes(MINUS, ["nmi"], "late")["a"]
    assert (found.change.n, found.change.value) == (2, pytest.approx(1.5))


def test_seeds_of_one_checkpoints_fine_tunings_are_said_to_be_that() -> None:
    found = evidence({0: 1.0, 1: 5.0}, {0: 0.0, 1: 3.0}, objective=OF_FINETUNING).changes(MINUS, ["nmi"], "late")["a"]
    assert list(found.notes) == [f"{OF_FINETUNING}: about these checkpoints only, not about their training"]


@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("blocks", ["last half", "first half", "last quarter"])
def test_over_seeds_a_measure_by_block_is_the_mean_of_the_blocks_asked_for_and_of_no_others(
    blocks: str, count: int
) -> None:
    """Every block has its own power of ten, so that one block too many or too few shows."""
    rows = [
        {"model": model, "seed": seed, "probe": "attention", "metric": "nmi", "block": block, "head": head}
        | {"depth": (block + 1) / count, "value": scale * (seed + 1) * 10.0**block}
        for model, scale in (("a", 3.0), ("b", 1.0))
        for seed in (0, 1)
        for block in range(count)
        for head in (0, 1)
    ]
    found = Evidence([frame(rows)], {}, {}).changes(MINUS, ["nmi"], blocks)["a"]
    kept = {
        (4, "last half"): [2, 3],
        (4, "first half"): [0, 1],
        (4, "last quarter"): [3],
        (5, "last half"): [2, 3, 4],  # relative depth 0.6, 0.8, 1.0
        (5, "first half"): [0, 1],
        (5, "last quarter"): [3, 4],
    }[count, blocks]
    change = (3.0 - 1.0) * (1 + 2) / 2 * float(np.mean([10.0**block for block in kept]))
    assert (found.unit, found.change.n, found.change.value) == (SEEDS, 2, pytest.approx(change))
