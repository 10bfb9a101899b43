"""One rule, one sentence: made data of which the right sentence is known, asked of the functions that reports ask."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from fdlab.compare.cohort import Cohort, Member, cohort_of
from fdlab.compare.findings import Finding, find
from fdlab.compare.paired import NOT_COMPARABLE, UNPAIRED, paired_rows
from fdlab.randomness import stream
from fdlab.records.intervals import t_interval
from fdlab.records.store import Record
from fdlab.records.table import CONTROL, frame
from fdlab.report.findings import asks, by_question, scope, worded

N = 64
UNIFORM = {"A": 12.0, "B": 12.0, "C": 12.0}
NEVER = re.compile(r"separate|told from|told apart|contradicted|makes|overlap")


def value(model: str, number: float, metric: str = "distance", head: int | None = 3, **more: Any) -> dict[str, Any]:
    """The last of two blocks of a model; the number is its late mean."""
    row = {"model": model, "probe": "attention", "metric": metric, "value": number, "n": N}
    return {**row, "block": 1, "depth": 1.0, "head": head, **more}


def change(
    model: str, reference: str, number: float, half: float, metric: str = "distance", n: int = N, **more: Any
) -> dict[str, Any]:
    """A paired difference with its interval."""
    row = {"model": model, "reference": reference, "probe": "attention", "metric": metric, "n": n, "value": number}
    return {**row, "low": number - half, "high": number + half, **more}


def two() -> Cohort:
    return cohort_of([("A", "a.pth"), ("B", "b.pth")])


def found(rows: list[dict[str, Any]], cohort: Cohort | None = None, **more: Any) -> list[Finding]:
    made = worded(find(frame(rows), cohort or two(), uniform=UNIFORM, **more))
    assert not any(NEVER.search(finding.sentence) for finding in made)
    return made


def test_a_difference_of_two_checkpoints_is_stated_of_these_checkpoints() -> None:
    (one,) = found([change("B", "A", 2.27, 0.04)])
    assert one.rule == "differs" and one.headline and one.p_holm < 1e-6
    assert one.sentence == "In these checkpoints, heads look 2.27 px farther in B than in A (2.23 to 2.31)."
    (nearer,) = found([change("B", "A", -2.0, 0.1)])
    assert nearer.sentence == "In these checkpoints, heads look 2.0 px nearer in B than in A (1.9 to 2.1)."
    assert asks(one.question) == "How far do heads look?"
    assert "uniform attention" in one.limit


def test_what_does_not_survive_correction_is_no_difference() -> None:
    """p = .02 of one measure among six: alone it would be a difference, in this family it is none."""
    rows = [change("B", "A", 0.6, 0.5)]
    (alone,) = found(rows)
    assert alone.rule == "differs"
    others = ("distance_spread", "head_similarity", "r2_relative", "r2_absolute", "entropy")
    rows += [change("B", "A", 0.0, 0.5, metric) for metric in others]
    together = {finding.metric: finding for finding in found(rows)}
    one = together["distance"]
    assert one.p == alone.p < 0.05 < one.p_holm and one.comparisons == 6
    assert one.rule == "uncorrected"
    assert one.sentence.startswith("No clear difference between A and B in how far heads look after correction for 6")
    assert together["entropy"].rule == "unclear"


def test_an_interval_with_zero_says_what_is_possible() -> None:
    (one,) = found([change("B", "A", 0.1, 0.5)])
    assert one.rule == "unclear"
    assert one.sentence == (
        "No clear difference between A and B in how far heads look: −0.4 to 0.6 px is possible (B minus A)."
    )


def test_a_difference_that_is_too_small_to_matter_is_no_difference() -> None:
    """2 % of the 12 px of uniform attention are 0.24 px."""
    (one,) = found([change("B", "A", 0.1, 0.05)])
    assert one.margin == pytest.approx(0.24) and one.rule == "alike" and one.p < 0.01
    assert one.sentence == "A and B agree within 0.24 px in how far heads look: 0.05 to 0.15 (B minus A)."
    (wider,) = found([change("B", "A", 0.1, 0.2)])  # 0.30 is beyond the margin
    assert wider.rule == "unclear"
    wide = [change("B", "A", 0.0, 9.0, metric) for metric in ("entropy", "r2_relative", "knn")]
    rows = [change("B", "A", 0.0, 0.15), *wide]
    assert {f.metric: f.rule for f in found(rows)}["distance"] == "alike"
    rows[0] = change("B", "A", 0.0, 0.2)  # alone it would be within the margin, of four tests it is not
    assert {f.metric: f.rule for f in found(rows)}["distance"] == "unclear"
    assert found(rows[:1])[0].rule == "alike"


def test_several_pairs_of_which_none_differs_are_one_sentence() -> None:
    cohort = cohort_of([("A", "a"), ("B", "b"), ("C", "c")])
    rows = [change(m, "A", d, 0.05, "accuracy", 500) for m, d in (("B", 0.01), ("C", -0.02))]
    rows += [
        {"model": m, "probe": "training", "metric": "accuracy", "value": v, "n": 500}
        for m, v in (("A", 0.9), ("B", 0.91), ("C", 0.88))
    ]
    first, *others = found(rows, cohort)
    assert first.rule == "unclear all" and first.headline
    assert first.sentence == (
        "B and C do not differ clearly from A in the share of test images named rightly: 88.0 to 91.0 %. "
        "A difference of up to 7.0 points could still hide."
    )
    assert [f.rule for f in others] == ["unclear", "unclear"] and not any(f.headline for f in others)
    rows[1] = change("C", "A", -0.2, 0.05, "accuracy", 500)  # one that differs is the headline
    first, *_ = found(rows, cohort)
    assert (first.rule, first.model) == ("differs", "C")
    assert "C names 20.0 points fewer test images rightly than A" in first.sentence


@pytest.mark.parametrize(
    ("n", "starts"), [(31, "With only 31 images: "), (32, "In these"), (8, "With only 8 images: ")]
)
def test_few_images_are_said(n: int, starts: str) -> None:
    (one,) = found([change("B", "A", 2.0, 0.1, n=n)])
    assert one.sentence.startswith(starts)
    assert one.badge == (f"{n} images" if n < 32 else "")


def test_below_eight_images_there_are_numbers_and_no_sentence() -> None:
    rows = [change("B", "A", 2.0, 0.1, n=7)]
    (one,) = found(rows)
    assert one.rule == "numbers" and one.comparisons == 0
    assert one.sentence == "How far heads look, B minus A: 2.0 px (1.9 to 2.1); 7 images are too few for a sentence."


def test_one_head_is_undefined_and_not_zero() -> None:
    rows = [value("A", 5.0), value("B", 5.0, head=0)]
    rows += [change("B", "A", -0.5, 0.1, m) for m in ("distance_spread", "head_similarity", "distance")]
    by_metric = {finding.metric: finding for finding in found(rows)}
    for metric in ("distance_spread", "head_similarity"):
        assert by_metric[metric].rule == "undefined" and by_metric[metric].badge == "1 head a block"
        assert "is undefined for B, which has one head a block" in by_metric[metric].sentence
    assert by_metric["distance"].rule == "differs" and by_metric["distance"].comparisons == 1
    rows = [value("A", 5.0), value("B", 5.0, head=0), value("A", 1.0, "distance_spread", head=None)]
    (alone,) = found(rows)  # a record of one head has no spread, so that there is no difference at all
    assert (alone.metric, alone.rule) == ("distance_spread", "undefined")


def test_across_grids_the_ratio_is_spoken_of_and_never_pixels() -> None:
    rows = [change("B", "A", -8.5, 0.1, m, objective=NOT_COMPARABLE) for m in ("distance", "distance_spread")]
    rows += [change("B", "A", 0.25, 0.02, "distance_ratio")]
    reach, spread = found(rows)
    assert reach.metric == "distance_ratio" and reach.badge == "Different grids"
    assert reach.sentence == (
        "In these checkpoints, relative to uniform attention on each model's own grid, heads look "
        "0.25 of the uniform distance farther in B than in A (0.23 to 0.27)."
    )
    assert spread.rule == "undefined" and "pixels of different grids" in spread.sentence
    assert not any("8.5" in finding.sentence for finding in (reach, spread))


def test_without_pairs_the_sentence_says_unpaired() -> None:
    rows = [change("B", "A", 0.2, 0.05, "accuracy", 500, objective=UNPAIRED)]
    (one,) = found(rows)
    assert one.sentence.endswith("(15.0 to 25.0; unpaired).") and one.badge == "Unpaired"


@pytest.mark.parametrize(
    ("start", "own", "word", "badge"),
    [
        (5.0, 2.0, "", ""),  # the untrained start is like the reference: training made the difference
        (7.5, 0.0, " differs from A as much, so the training of A may be what shows", "Untrained differs as much"),
        (6.9, 0.05, " may differ from A as much, so the training of A may be what shows", "Untrained differs as much"),
        (3.0, 4.0, "", ""),  # it differs, but the other way
    ],
)
def test_what_the_untrained_start_shows_as_well_is_not_owed_to_training(
    start: float, own: float, word: str, badge: str
) -> None:
    rows = [value("A", 5.0), value("B", 7.0), value("U", start)]
    rows += [change("B", "A", 2.0, 0.1), change("B", "U", own, 0.1)]
    one = next(f for f in found(rows, starts={"B": "U"}) if f.kind == "baseline")
    assert (word in one.sentence) and (bool(word) == ("untrained start of B" in one.sentence))
    assert one.badge == badge


def test_an_under_trained_model_is_not_compared_in_accuracy() -> None:
    loss = {"probe": "training", "metric": "final_loss"}
    rows = [change("B", "A", -0.2, 0.05, "accuracy", 500)]
    ends = [{**loss, "model": "A", "value": 0.52}, {**loss, "model": "B", "value": 0.68}]
    (one,) = found(rows + ends)
    assert one.rule == "under-trained" and one.badge == "Under-trained"
    assert one.sentence.startswith("B is under-trained")
    ends[1]["value"] = 0.6
    assert found(rows + ends)[0].rule == "differs"


def seeds(count: int) -> Cohort:
    members = [Member(label=f"A{s}", source="a", group="A", seed=s) for s in range(count)]
    members += [Member(label=f"B{s}", source="b", group="B", seed=s, pair_of=f"A{s}") for s in range(count)]
    return Cohort(model=members)


def test_several_trainings_are_paired_by_seed_and_then_the_models_are_spoken_of() -> None:
    units = [1.0, 1.5, 2.0, 1.5]
    rows = [change(f"B{s}", f"A{s}", d, 0.001) for s, d in enumerate(units)]
    (one,) = found(rows, seeds(4))
    expected = t_interval(np.array(units))
    assert one.trainings == one.change.n == 4 and (one.model, one.reference) == ("B", "A")
    assert one.change[:3] == pytest.approx(expected[:3])
    assert one.rule == "differs"
    assert one.sentence == "Heads look 1.5 px farther in B than in A (0.9 to 2.1, 4 trainings each)."
    assert scope([one.fact()]) == "Intervals are 95 % over 4 trainings, paired by seed."
    (two_seeds,) = found(rows[:2], seeds(2))
    assert two_seeds.sentence.startswith("With only 2 trainings: ") and two_seeds.badge == "2 trainings"
    assert two_seeds.rule == "unclear"  # two equal signs say little, however narrow the images' intervals are


def test_the_largest_difference_comes_first_counted_in_what_matters() -> None:
    rows = [change("B", "A", 0.06, 0.01, "entropy"), change("B", "A", 0.2, 0.01, "head_similarity")]
    rows += [change("B", "A", 0.5, 0.01, "distance")]
    order = [finding.question for finding in found(rows)]
    assert order == ["alike", "breadth", "reach"]  # 4, 3 and 2 margins


def test_pairs_follow_from_roles_and_each_is_tested_once() -> None:
    members = [
        Member(label="T", source="t"),
        Member(label="S", source="s", pair_of="T", control="U"),
        Member(label="U", source="u"),
    ]
    rows = [change("S", "T", 2.0, 0.1), change("S", "U", -1.0, 0.1), change("U", "T", 3.0, 0.1)]
    made = found([*rows, change("T", CONTROL, 2.0, 0.1)], Cohort(model=members, baseline="T"), starts={"T": CONTROL})
    assert [(f.kind, f.model, f.reference) for f in made] == [
        ("teacher", "S", "T"),
        ("control", "T", CONTROL),
        ("control", "S", "U"),
    ]
    assert {f.comparisons for f in made} == {3}


def test_facts_hold_all_that_page_and_terminal_need() -> None:
    facts = [f.fact() for f in found([change("B", "A", 2.0, 0.1), change("B", "A", 0.0, 0.1, "entropy")])]
    (question, first, others), _ = by_question(facts)
    assert question == "How far do heads look?" and others == []
    assert first["sentence"] and {"p", "p_holm", "value", "low", "high", "n", "metric", "model"} <= set(first)
    assert scope(facts) == "Intervals are 95 % over images, not over repeated trainings."
    assert by_question([]) == [] and scope([]) == ""


METRICS = ("entropy", "head_similarity", "r2_relative", "r2_absolute")


def pages(shift: float, count: int) -> list[list[Finding]]:
    """Comparisons of three models and an untrained start whose means differ by ``shift`` and by nothing else."""
    made = []
    cohort = cohort_of([("A", "a"), ("B", "b"), ("C", "c")])
    for page in range(count):
        draw = stream(page, "findings")
        images = draw.normal(0, 1, N)
        records = {}
        for place, label in enumerate(("A", "B", "C", CONTROL)):
            noise = np.exp(draw.normal(0, 0.7, (len(METRICS), N)))  # skewed, as distances are
            arrays = {m: 0.3 * images + 0.1 * noise[i] + shift * place for i, m in enumerate(METRICS)}
            manifest = {"probe": "attention", "images": N, "data_digest": "d", "seed": page}
            records[label] = Record(frame([]), arrays, manifest)
        pairs = [("B", "A"), ("C", "A"), *((label, CONTROL) for label in "ABC")]
        rows, _ = paired_rows(records, pairs, seed=page)
        made.append(find(frame(rows), cohort, starts=dict.fromkeys("ABC", CONTROL)))
    return made


def test_where_nothing_differs_at_most_one_page_in_twenty_says_so() -> None:
    made = pages(0.0, 200)
    assert {f.comparisons for page in made for f in page} == {20}  # 5 pairs x 4 measures
    wrong = sum(any(f.rule == "differs" for f in page) for page in made)
    assert wrong <= 10
    uncorrected = sum(any(f.p < 0.05 and f.rule != "unclear all" for f in page) for page in made)
    assert uncorrected > 60  # what the correction is for
    assert all(any(f.rule == "differs" for f in page) for page in pages(0.1, 5))
