"""Cohorts whose ranking is known: a measure that orders, one that does not, seeds, untrained models, too few models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence, scores_of
from fdlab.compare.predict import NOT_SEPARATED, RANKS, SENSITIVE, TOO_FEW, Prediction, predict
from fdlab.errors import FdlabError
from fdlab.randomness import stream
from fdlab.records.table import frame

FAMILIES = ("contrastive", "mim", "supervised")


def cohort(n: int, **changes: Any) -> Cohort:
    return Cohort(
        model=[
            Member(label=f"m{i}", source="x", family=FAMILIES[i % 3], score=0.5 + i / 50, **changes) for i in range(n)
        ]
    )


def known(group: Cohort, measures: Mapping[str, list[float]], extra: list[dict[str, Any]] | None = None) -> Evidence:
    rows = [
        {"model": member.label, "probe": "features", "metric": metric, "value": value, "seed": 0}
        for metric, values in measures.items()
        for member, value in zip(group.model, values, strict=True)
    ]
    return Evidence([frame(rows + (extra or []))], {}, scores_of(group))


def by_metric(found: Prediction) -> dict[str, Any]:
    return {one.metric: one for one in found.ranks}


def test_a_measure_that_orders_and_one_that_does_not() -> None:
    group, n = cohort(12), 12
    noise = list(stream(2, "noise").normal(size=n))
    found = predict(
        group, known(group, {"knn": list(np.arange(n) ** 3.0), "nmi": noise, "entropy": [-i for i in range(n)]})
    )
    ranks = by_metric(found)
    assert (ranks["knn"].tau, ranks["entropy"].tau) == (1.0, -1.0)
    assert ranks["knn"].verdict == ranks["entropy"].verdict == RANKS
    assert ranks["nmi"].verdict == NOT_SEPARATED
    assert ranks["nmi"].p_holm >= ranks["nmi"].p
    assert found.score == "score" and found.ranks[0].metric in ("knn", "entropy")


def test_too_few_models_is_said_plainly() -> None:
    group = cohort(4)
    found = predict(group, known(group, {"knn": [1, 2, 3, 4]}))
    assert found.ranks[0].verdict == TOO_FEW and found.ranks[0].low < 0
    assert "4 models are too few to say anything" in found.notes[0]
    group = cohort(5)
    several = {"knn": [1, 2, 3, 4, 5], "nmi": [2, 1, 3, 4, 5], "entropy": [5, 1, 3, 2, 4], "distance": [1, 3, 2, 5, 4]}
    found = predict(group, known(group, several))
    assert by_metric(found)["knn"].verdict == NOT_SEPARATED and "too few for 4 measures at once" in found.notes[0]
    alone = predict(group, known(group, several), measures=["knn"])
    assert [one.verdict for one in alone.ranks] == [RANKS]
    assert not any("at once" in sentence for sentence in alone.notes)


def test_an_order_that_hangs_on_one_family_is_no_ranking() -> None:
    families = ["a"] * 4 + ["b"] * 8
    scores = [0.1, 0.2, 0.3, 0.4, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86, 0.87, 0.88]
    model = [
        Member(label=f"m{i}", source="x", family=f, score=s)
        for i, (f, s) in enumerate(zip(families, scores, strict=True))
    ]
    group = Cohort(model=model)
    mixed = [1.0, 2.0, 3.0, 4.0, 16.0, 14.0, 15.0, 12.0, 13.0, 10.0, 11.0, 9.0]  # b above a, and reversed within b
    one = predict(group, known(group, {"knn": mixed})).ranks[0]
    assert one.p_holm > 0.05 or one.verdict == SENSITIVE
    assert one.family_out[0] < -0.5 < 0 < one.family_out[1]


def test_seeds_of_a_group_are_one_model_and_untrained_ones_are_left_out() -> None:
    model = [
        Member(label=f"m{i} {seed}", source="x", family="mim", group=f"m{i}", seed=seed, score=0.5 + i / 10)
        for i in range(3)
        for seed in range(3)
    ]
    model.append(Member(label="start", source="x", family="random", score=0.1))
    group = Cohort(model=model)
    values = [float(i // 3 + i % 3 / 10) for i in range(9)] + [-5.0]
    found = predict(group, known(group, {"knn": values}))
    assert found.ranks[0].n == 3 and found.scores["m2"] == pytest.approx(0.7)
    assert any("1 untrained models are left out" in sentence for sentence in found.notes)
    assert predict(group, known(group, {"knn": values}), untrained=True).ranks[0].n == 4


def test_scores_come_from_fine_tunings_where_the_cohort_has_none() -> None:
    model = [Member(label=f"m{i}", source="x", family="mim") for i in range(5)]
    group = Cohort(model=model)
    rows = [
        {
            "model": f"m{i}",
            "probe": "trainability",
            "metric": "best_accuracy",
            "seed": seed,
            "value": i / 10 + seed / 100,
        }
        for i in range(5)
        for seed in (0, 1)
    ]
    mean = [{**row, "seed": None, "value": 9.0} for row in rows[::2]]  # a mean over seeds is no seed
    found = predict(group, known(group, {"knn": [1, 2, 3, 5, 4]}, rows + mean))
    assert found.score == "best_accuracy" and found.scores["m3"] == pytest.approx(0.305)
    assert [one.metric for one in found.ranks] == ["knn"]  # no fine-tuning predicts itself
    assert found.ranks[0].tau == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"score": "scor"}, "Did you mean 'score'"), ({"measures": ["kn"]}, "Did you mean 'knn'")],
)
def test_unknown_names_are_refused(changes: dict[str, Any], says: str) -> None:
    group = cohort(5)
    with pytest.raises(FdlabError, match=says):
        predict(group, known(group, {"knn": [1, 2, 3, 4, 5]}), **changes)


def test_without_scores_or_measures_there_is_nothing_to_rank() -> None:
    group = Cohort(model=[Member(label=f"m{i}", source="x") for i in range(5)])
    with pytest.raises(FdlabError, match="a ranking needs 3"):
        predict(group, known(group, {"knn": [1, 2, 3, 4, 5]}))
    with pytest.raises(FdlabError, match="No measure"):
        predict(cohort(5), known(cohort(5), {}))
    constant = predict(cohort(5), known(cohort(5), {"knn": [1, 2, 3, 4, 5], "nmi": [1] * 5}))
    assert any("nmi" in sentence and "same for all" in sentence for sentence in constant.notes)
