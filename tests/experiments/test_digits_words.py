"""The demo's sentences: which blocks they speak of, who is minus whom, and what counts as told apart."""

from __future__ import annotations

import numpy as np

from fdlab.experiments.digits import CELLS, MASKED, SAME_DESIGN, SIZE, STUDENT, TEACHER, study_of
from fdlab.experiments.digits_words import MEASURES, notes, notes_over_seeds, rate_note
from fdlab.experiments.stages import pretraining, probing
from fdlab.records.store import Record
from fdlab.records.table import frame

RULER = {"locality 0": 1.0, "locality 1": 0.5}


def record(early: float, late: float, images: int = 3, own: float = 0.0) -> Record:
    """Attention of two early and two late blocks of two heads; beside ``own``, the images scatter equally in all."""
    blocks = np.array([early, early, late, late])[None, :, None] * np.ones((images, 1, 2))
    scatter = 0.001 * np.arange(images)[:, None, None] + own * (np.arange(images) % 2)[:, None, None]
    return Record(frame([]), dict.fromkeys(MEASURES, blocks + scatter))


def models(shift: float = 0.0) -> dict[str, Record]:
    """The late blocks of a masked model are 0.5 above the teacher's; the early ones of all others are far away."""
    places = {TEACHER: (0.0, 0.1), MASKED: (9.0, 0.6), SAME_DESIGN: (-9.0, 0.1), STUDENT: (5.0, 0.0)}
    own = {MASKED: 1e-4, STUDENT: 2e-4}  # differences without any scatter would test nothing
    return {
        cell.label: record(early, late + shift * (cell == MASKED), own=own.get(cell, 0.0))
        for cell, (early, late) in places.items()
    }


def chosen(**correct: int) -> dict[str, dict[str, float]]:
    counts = {cell.label: correct.get(cell.name.replace("-", "_"), 90) for cell in CELLS}
    return {label: {"correct": c, "count": 100, "final_loss": 0.5, "lr": SIZE.rates[0]} for label, c in counts.items()}


def test_the_differences_of_one_demo_are_over_the_last_half_of_the_blocks_of_the_first_minus_the_second() -> None:
    masked, same, student, *_ = notes(models(), chosen(), RULER)
    assert "share explained by relative position +0.50 (+0.50 to +0.50)" in masked
    assert "entropy +0.00 (+0.00 to +0.00, not clear)" in same
    assert "NMI -0.10 (-0.10 to -0.10)" in student


def test_the_differences_over_seeds_are_over_the_same_blocks() -> None:
    seeds = [models(shift) for shift in (-0.01, 0.0, 0.01)]
    facts = [
        {"seed": n, "ruler_accuracy": RULER, "training_loss": {"a": 0.5}, "learning_rates": {"a": SIZE.rates[0]}}
        for n in range(3)
    ]
    accuracies = {cell.label: [0.9, 0.91, 0.92] for cell in CELLS}
    accuracies["random, student design"] = [0.8, 0.81, 0.82]
    masked, _, _, gains, *rest = notes_over_seeds(seeds, accuracies, facts)
    assert (
        "mean of 3 seeds with the interval over seeds: share explained by relative position +0.50 (+0.48 to" in masked
    )
    # each against the random start of its own design
    assert "distilled, paper's student +10.0" in gains
    assert "distilled, same design +0.0" in gains
    assert "no two of the trained starts differ clearly" in gains
    assert "locality 1 at seed 2 (50%)" in rest[-1]


def test_only_pairs_that_survive_the_correction_differ_and_random_starts_are_not_among_them() -> None:
    _, _, _, sentence, *_ = notes(models(), chosen(masked=50, random_plain=10), RULER)
    apart = sentence.partition("these differ: ")[2]
    assert apart.startswith("contrastive teacher and masked modelling; masked modelling and distilled, same design")
    assert "random" not in apart
    # 80 of 100 lies below the interval of 90 of 100, and their intervals overlap
    assert "no two of the trained starts differ clearly" in notes(models(), chosen(masked=80), RULER)[3]


def test_a_rate_is_said_to_be_at_the_edge_where_it_is_the_highest_in_every_seed() -> None:
    low, high = SIZE.rates
    assert rate_note([{"a": high, "b": low}]).startswith("The highest learning rate tried was the best for a:")
    assert "in every seed for b:" in rate_note([{"a": high, "b": high}, {"a": low, "b": high}])
    assert rate_note([{"a": low}]).startswith("No model's")


def test_the_demo_is_the_study_of_its_own_cells(tmp_path) -> None:
    study = study_of(tmp_path, 3, 5.0)
    jobs = pretraining(study)
    assert {job.keywords["run"] for job in jobs.values()} == {
        str(tmp_path / "runs" / name) for name in ("contrastive", "masked", "distilled-student", "distilled-same")
    }
    assert jobs["distilled-student 3"].needs == ("contrastive 3",)
    assert jobs["distilled-student 3"].keywords["overrides"]["distill.teacher"] == str(tmp_path / "runs/contrastive")
    assert study.source(CELLS[-1], 3) == f"random:{tmp_path / 'runs/distilled-student'}"
    probes = probing(study)
    assert probes["model random-plain 3"].needs == ("contrastive 3",)
    assert probes["model masked 3"].needs == ("masked 3", "contrastive 3")  # read against the teacher
    assert sum(name.startswith("curvature") for name in probes) == 3


def test_what_is_clear_by_itself_alone_is_said_not_to_survive_the_correction() -> None:
    seeds = [models(shift) for shift in (0.0, 0.05, -0.2)]  # masked minus teacher: 0.5, 0.55, 0.3
    accuracies = {cell.label: [0.9, 0.9, 0.9] for cell in CELLS}
    facts = [{"seed": n, "training_loss": {}, "learning_rates": {}, "ruler_accuracy": RULER} for n in range(3)]
    for each in facts:
        each["training_loss"] = dict.fromkeys(accuracies, 0.5)
        each["learning_rates"] = dict.fromkeys(accuracies, SIZE.rates[0])
    masked = notes_over_seeds(seeds, accuracies, facts)[0]
    assert "+0.45 (+0.12 to +0.78, not clear after correction)" in masked
