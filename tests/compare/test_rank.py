"""Cohorts whose ranking is known: a measure that orders, one that does not, seeds, untrained models, too few models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fdlab.compare.cohort import Cohort, Member
from fdlab.compare.evidence import Evidence, scores_of
from fdlab.compare.kendall import smallest_p
from fdlab.compare.lineage import lineages
from fdlab.compare.rank import (
    BETWEEN,
    BOTH,
    NOT_SEPARATED,
    OPPOSED,
    SENSITIVE,
    WITHIN,
    Ranking,
    _corrected,
    _ranked,
    rank,
)
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


def known(
    group: Cohort, measures: Mapping[str, Sequence[float]], extra: list[dict[str, Any]] | None = None
) -> Evidence:
    rows = [
        {"model": member.label, "probe": "features", "metric": metric, "value": value, "seed": 0}
        for metric, values in measures.items()
        for member, value in zip(group.model, values, strict=True)
    ]
    return Evidence([frame(rows + (extra or []))], {}, scores_of(group))


def by_metric(found: Ranking) -> dict[str, Any]:
    return {one.metric: one for one in found.ranks}


def test_a_measure_that_orders_and_one_that_does_not() -> None:
    group, n = cohort(12), 12
    noise = list(stream(2, "noise").normal(size=n))
    found = rank(
        group, known(group, {"knn": list(np.arange(n) ** 3.0), "nmi": noise, "entropy": [-i for i in range(n)]})
    )
    ranks = by_metric(found)
    assert (ranks["knn"].tau, ranks["entropy"].tau) == (1.0, -1.0)
    assert ranks["knn"].verdict == ranks["entropy"].verdict == BETWEEN
    assert ranks["nmi"].verdict == NOT_SEPARATED
    assert ranks["nmi"].p_holm >= ranks["nmi"].p
    assert found.score == "score" and found.ranks[0].metric in ("knn", "entropy")


def test_too_few_models_is_said_plainly() -> None:
    group = cohort(4)
    found = rank(group, known(group, {"knn": [1, 2, 3, 4]}))
    assert found.ranks[0].verdict == "too few lineages (4)" and found.ranks[0].low < 0
    assert "4 lineages are too few to say anything" in found.notes[0]
    group = cohort(5)
    several = {"knn": [1, 2, 3, 4, 5], "nmi": [2, 1, 3, 4, 5], "entropy": [5, 1, 3, 2, 4], "distance": [1, 3, 2, 5, 4]}
    found = rank(group, known(group, several))
    assert by_metric(found)["knn"].verdict == "too few lineages (5)" and "6 are the fewest for 4" in found.notes[0]
    alone = rank(group, known(group, several), measures=["knn"])
    assert [one.verdict for one in alone.ranks] == [BETWEEN]
    assert not any("too few" in sentence for sentence in alone.notes)


def kin(sizes: Sequence[int], scores: Sequence[float]) -> Cohort:
    """Lineages of these sizes: a founder, and models distilled from the one before; all of family "distilled"."""
    model: list[Member] = []
    place = 0
    for lineage, size in enumerate(sizes):
        for i in range(size):
            parent = f"{lineage}.{i - 1}" if i else ""
            member = Member(label=f"{lineage}.{i}", source="x", family="distilled", pair_of=parent, score=scores[place])
            model, place = [*model, member], place + 1
    return Cohort(model=model)


def test_lineages_follow_pairs_and_the_explicit_key_but_neither_control_nor_family() -> None:
    def one(label: str, **keys: Any) -> Member:
        return Member(label=label, source="x", family="distilled", **keys)

    model = [
        one("t 0", group="t", seed=0), one("t 1", group="t", seed=1),
        one("s 0", group="s", seed=0, pair_of="t 0", control="start"), one("s 1", group="s", seed=1, pair_of="t 1"),
        one("s of s", pair_of="s 0"), one("other", control="start"), one("start"),
        one("kin", lineage="SimCLR"), one("its student", pair_of="kin"), one("kin in another design", lineage="SimCLR"),
        one("mixed 0", group="mixed", seed=0, pair_of="other"), one("mixed 1", group="mixed", seed=1, pair_of="alone"),
        one("alone"),
    ]  # fmt: skip
    found = lineages(Cohort(model=model))
    assert found["t"] == found["s"] == found["s of s"] == "t"
    assert found["kin"] == found["its student"] == found["kin in another design"] == "SimCLR"
    assert len({found[name] for name in ("t", "other", "start", "kin")}) == 4
    assert found["mixed"] == found["other"] == found["alone"]  # its seeds descend from both


def test_four_lineages_say_nothing_however_many_models_they_have() -> None:
    scores = [10 * lineage + i for lineage in range(4) for i in range(5)]
    group = kin([5] * 4, [score / 100 for score in scores])
    found = rank(group, known(group, {"knn": [float(score) for score in scores]}))
    one = found.ranks[0]
    assert (one.models, one.lineages, one.tau) == (20, 4, 1.0) and one.verdict == "too few lineages (4)"
    assert (one.within.concordant, one.within.discordant, one.within.tau) == (40, 0, 1.0)
    assert "20 models are 4 lineages" in found.notes[0] and "4 lineages are too few" in found.notes[1]
    alone = kin([4], [0.1, 0.2, 0.3, 0.4])
    single = rank(alone, known(alone, {"knn": [1.0, 2.0, 3.0, 4.0]}))
    assert single.ranks[0].verdict == "too few lineages (1)" and np.isnan(single.ranks[0].tau)
    assert "1 lineage is too few" in single.notes[1]


def test_between_and_within_lineages_are_two_questions() -> None:
    lineage, place = np.repeat(np.arange(8), 3), np.tile(np.arange(3), 8)
    mixed = np.array([3, 0, 6, 1, 7, 2, 5, 4])[lineage]  # an order of lineages without relation to the scores
    turned = np.where(lineage % 2, place, -place)  # inside half of the lineages reversed
    group = kin([3] * 8, list((10 * lineage + place) / 100))
    measures = {
        "knn": 10 * lineage + place,
        "nmi": 10 * lineage + turned,
        "entropy": 10 * mixed + place,
        "distance": 10 * lineage - place,
        "linear_probe": 10 * mixed + turned,
    }
    found = by_metric(rank(group, known(group, {name: list(map(float, values)) for name, values in measures.items()})))
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {
        "knn": BOTH, "nmi": BETWEEN, "entropy": WITHIN, "distance": OPPOSED, "linear_probe": NOT_SEPARATED,
    }  # fmt: skip
    assert found["nmi"].p == pytest.approx(smallest_p(8)) and found["entropy"].within.p == pytest.approx(2 / 6**8)
    assert found["knn"].p_holm == pytest.approx(7 * smallest_p(8))  # the fourth of ten: three inside are smaller


def test_an_order_that_one_lineage_makes_is_no_ranking() -> None:
    scores = [i / 100 for i in range(6)] + [0.5 + i / 10 for i in range(9)]
    group = kin([6] + [1] * 9, scores)  # one lineage alone has pairs
    values = [float(i) for i in range(6)] + [3.0, 9.0, 1.0, 5.0, 8.0, 2.0, 7.0, 4.0, 6.0]
    one = rank(group, known(group, {"knn": values})).ranks[0]
    assert one.within_holm < 0.05 and one.verdict == SENSITIVE


def test_seeds_of_a_group_are_one_model_and_untrained_ones_are_left_out() -> None:
    model = [
        Member(label=f"m{i} {seed}", source="x", family="mim", group=f"m{i}", seed=seed, score=0.5 + i / 10)
        for i in range(3)
        for seed in range(3)
    ]
    model.append(Member(label="start", source="x", family="random", score=0.1))
    group = Cohort(model=model)
    values = [float(i // 3 + i % 3 / 10) for i in range(9)] + [-5.0]
    found = rank(group, known(group, {"knn": values}))
    assert found.ranks[0].models == 3 and found.scores["m2"] == pytest.approx(0.7)
    assert any("1 untrained model is left out" in sentence for sentence in found.notes)
    assert rank(group, known(group, {"knn": values}), untrained=True).ranks[0].models == 4


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
    found = rank(group, known(group, {"knn": [1, 2, 3, 5, 4]}, rows + mean))
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
        rank(group, known(group, {"knn": [1, 2, 3, 4, 5]}), **changes)


def test_without_scores_or_measures_there_is_nothing_to_rank() -> None:
    group = Cohort(model=[Member(label=f"m{i}", source="x") for i in range(5)])
    with pytest.raises(FdlabError, match="a ranking needs 3"):
        rank(group, known(group, {"knn": [1, 2, 3, 4, 5]}))
    with pytest.raises(FdlabError, match="No measure"):
        rank(cohort(5), known(cohort(5), {}))
    constant = rank(cohort(5), known(cohort(5), {"knn": [1, 2, 3, 4, 5], "nmi": [1] * 5}))
    assert any("nmi" in sentence and "same for all" in sentence for sentence in constant.notes)


# --- how often something is found where nothing is, and where something is --------------------------------

OVER, INSIDE = (BETWEEN, BOTH, OPPOSED, SENSITIVE), (WITHIN, BOTH, OPPOSED, SENSITIVE)  # a flaw is found too
SIZES = {"13 in 4": [4, 4, 4, 1], "24 in 8": [3] * 8, "24 in 8 uneven": [1, 1, 1, 3, 3, 4, 5, 6], "24 in 12": [2] * 12}


def found_in(sizes: Sequence[int], icc: float, draws: int, between: float = 0.0, within: float = 0.0) -> np.ndarray:
    """(draws, 2): whether any of 26 measures is called, over or inside lineages.

    Score and measures are normal, with this correlation between models of one lineage; ``between`` and ``within`` are
    the correlations of the first measure with the score of lineages, and of models inside them.
    """
    draw = stream(1, "cohorts", sum(sizes), len(sizes), round(100 * icc))
    names, n = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    labels, called = [str(i) for i in range(n)], []
    descent = {label: str(name) for label, name in zip(labels, names, strict=True)}
    for _ in range(draws):
        of_lineage, of_model = draw.normal(size=(27, len(sizes))), draw.normal(size=(27, n))
        of_lineage[1] = between * of_lineage[0] + np.sqrt(1 - between**2) * of_lineage[1]
        of_model[1] = within * of_model[0] + np.sqrt(1 - within**2) * of_model[1]
        scores, *measures = np.sqrt(icc) * of_lineage[:, names] + np.sqrt(1 - icc) * of_model
        scored = dict(zip(labels, scores, strict=True))
        ranks = [
            _ranked("made", str(i), dict(zip(labels, row, strict=True)), scored, descent)
            for i, row in enumerate(measures)
        ]
        found = _corrected(ranks)[0]
        called.append([any(one.verdict in said for one in found) for said in (OVER, INSIDE)])
    return np.array(called)


def test_kin_that_are_nearly_equal_are_not_many_models() -> None:
    assert not found_in(SIZES["13 in 4"], 0.9, 10).any()
    assert found_in(SIZES["24 in 8"], 0.95, 40).any(1).mean() <= 0.1
    assert found_in(SIZES["24 in 12"], 0.95, 5, between=0.99)[:, 0].all()
    assert found_in(SIZES["24 in 8"], 0.5, 5, within=0.99)[:, 1].mean() >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("icc", [0.0, 0.5, 0.9, 0.95])
def test_false_positives_stay_under_six_per_cent(sizes: str, icc: float) -> None:
    assert found_in(SIZES[sizes], icc, 100).any(1).mean() <= 0.06
