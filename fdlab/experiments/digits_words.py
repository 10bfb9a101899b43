"""What the demo's numbers say, in sentences: of one seed, and over several with the seeds as the unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fdlab.compare.significance import ALPHA, holm, mean_of_units, two_sided, weighted_sum
from fdlab.experiments.digits import CELLS, MASKED, SAME_DESIGN, SIZE, STUDENT, TEACHER
from fdlab.experiments.words import signed
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import paired_difference_interval, proportion_interval
from fdlab.records.means import late
from fdlab.records.store import Record

# What is compared, last half of the blocks: (sentence, first, second), always first minus second.
CONTRASTS = (
    ("Masked modelling minus contrastive learning", MASKED, TEACHER),
    ("Distilled into the teacher's own architecture minus the teacher", SAME_DESIGN, TEACHER),
    ("Distilled into the paper's student minus the teacher (the design changes too)", STUDENT, TEACHER),
)
MEASURES = {
    "r2_relative": "share explained by relative position",
    "r2_absolute": "share explained by key position",
    "nmi": "NMI",
    "entropy": "entropy",
}
LIMITS = (
    "This is a plumbing and teaching demo: a few hundred steps on 8x8 digits; its accuracies do not test the paper.",
    "The contrastive teacher learned through the mean of its patch tokens, the same token that fine-tuning reads.",
    "The paper's student differs from the teacher in its design too (relative bias, layer scale); only the student of "
    "the teacher's own architecture shows what distillation alone does.",
)
LOSS_GAP = 0.1  # training losses further apart than this are named on the page
TRAINED = tuple(cell for cell in CELLS if not cell.untrained)
ALSO = "they are under-trained, so their accuracies are too low to compare."


def notes(
    models: Mapping[str, Record], chosen: Mapping[str, Mapping[str, Any]], ruler: Mapping[str, float]
) -> list[str]:
    """What the numbers of one demo say; no sentence is written before they are known.

    Args:
        models: label -> record with the attention's per-image arrays.
        chosen: label -> run.json of the best fine-tuning, and its rate as ``lr``.
        ruler: accuracy of the ruler's models.
    """

    def change(metric: str, first: str, second: str) -> Estimate:
        values, others = (late(models[label].arrays[metric]) for label in (first, second))
        return paired_difference_interval(values, others)

    return [
        *_contrasts("paired over the same images", change),
        _accuracies({label: (int(facts["correct"]), int(facts["count"])) for label, facts in chosen.items()}),
        _losses({label: facts["final_loss"] for label, facts in chosen.items()}),
        rate_note([{label: facts["lr"] for label, facts in chosen.items()}]),
        *_weak_rulers(ruler.items()),
    ]


def notes_over_seeds(
    models: Sequence[Mapping[str, Record]],
    accuracies: Mapping[str, Sequence[float]],
    facts: Sequence[Mapping[str, Any]],
) -> list[str]:
    """What the numbers of several demos say: differences with t-intervals over the seeds.

    Args:
        models: for each seed as in ``notes``. accuracies: label -> test accuracy by seed. facts: of each demo.
    """

    def change(metric: str, first: str, second: str) -> Estimate:
        means = [[float(late(seed[label].arrays[metric]).mean()) for label in (first, second)] for seed in models]
        return mean_of_units([mean - other for mean, other in means])

    rulers = [(f"at seed {seed['seed']}", seed["ruler_accuracy"]) for seed in facts]
    weak = [(f"{label} {where}", accuracy) for where, shares in rulers for label, accuracy in shares.items()]
    return [
        *_contrasts(f"mean of {len(models)} seeds with the interval over seeds", change),
        _accuracies_over_seeds(accuracies),
        _losses_over_seeds([seed["training_loss"] for seed in facts]),
        rate_note([seed["learning_rates"] for seed in facts]),
        *_weak_rulers(weak, "({:.0%})"),
    ]


def _contrasts(unit: str, change: Callable[[str, str, str], Estimate]) -> list[str]:
    """A sentence for each of ``CONTRASTS``; ``change`` gives the difference of two models in one measure."""
    found = [[change(metric, a.label, b.label) for metric in MEASURES] for _, a, b in CONTRASTS]
    said = iter(_signed([each for of_pair in found for each in of_pair]))
    return [
        f"{sentence}, {unit}: {', '.join(f'{name} {next(said)}' for name in MEASURES.values())}."
        for sentence, *_ in CONTRASTS
    ]


def _signed(changes: Sequence[Estimate], form: str = "+.2f", scale: float = 1.0) -> list[str]:
    """Each difference with its interval, and whether it is clear: after Holm's correction over all of them."""
    adjusted = holm([two_sided(change, change.n - 1 if change.n > 1 else math.inf) for change in changes])
    remarks = [
        "" if p <= ALPHA else ", not clear after correction" if change.low > 0 or change.high < 0 else ", not clear"
        for change, p in zip(changes, adjusted, strict=True)
    ]
    return [signed(change, form, scale, remark) for change, remark in zip(changes, remarks, strict=True)]


def _order(difference: Callable[[str, str], tuple[Estimate, float]]) -> str:
    """Which trained models differ after Holm's correction over their pairs; with degrees of freedom."""
    pairs = list(combinations((cell.label for cell in TRAINED), 2))
    found = [difference(a, b) for a, b in pairs]
    ps = [two_sided(change, freedom) for change, freedom in found]
    apart = [f"{a} and {b}" for (a, b), p in zip(pairs, holm(ps), strict=True) if p <= ALPHA]
    if apart:
        return f"after correction for {len(pairs)} pairs these differ: {'; '.join(apart)}"
    return f"after correction for {len(pairs)} pairs no two of the trained starts differ clearly"


def _accuracies(counts: Mapping[str, tuple[int, int]]) -> str:
    spans = {label: proportion_interval(correct, count) for label, (correct, count) in counts.items()}
    values = ", ".join(f"{label} {100 * span.value:.1f}" for label, span in spans.items())
    order = _order(lambda a, b: (weighted_sum([(1.0, spans[a]), (-1.0, spans[b])]), math.inf))
    return f"Fine-tuned test accuracy in per cent: {values}; {order} (one seed)."


def _accuracies_over_seeds(values: Mapping[str, Sequence[float]]) -> str:
    def gain(label: str, other: str) -> Estimate:
        return mean_of_units(np.subtract(values[label], values[other]))

    shown = ", ".join(f"{label} {' / '.join(f'{100 * v:.1f}' for v in each)}" for label, each in values.items())
    said = _signed([gain(cell.label, cell.control.label) for cell in TRAINED], "+.1f", 100)
    gains = [f"{cell.label} {each}" for cell, each in zip(TRAINED, said, strict=True)]
    order = _order(lambda a, b: (gain(a, b), len(values[a]) - 1))
    return (
        f"Fine-tuned test accuracy in per cent, seed by seed: {shown}. Points above the random start of the same "
        f"design: {', '.join(gains)}; {order}."
    )


def _losses(losses: Mapping[str, float]) -> str:
    best = min(losses.values())
    behind = [f"{label} ({loss:.2f})" for label, loss in losses.items() if loss > best + LOSS_GAP]
    if not behind:
        return f"All fine-tunings end within {LOSS_GAP} of the lowest training loss ({best:.2f})."
    return f"Not fitted as far as the best (training loss {best:.2f}): {', '.join(behind)}; {ALSO}"


def _losses_over_seeds(seeds: Sequence[Mapping[str, float]]) -> str:
    counts = {label: sum(seed[label] > min(seed.values()) + LOSS_GAP for seed in seeds) for label in seeds[0]}
    behind = [f"{label} (in {count} of {len(seeds)} seeds)" for label, count in counts.items() if count]
    if not behind:
        return f"All fine-tunings end within {LOSS_GAP} of the lowest training loss of their seed."
    return f"Training loss more than {LOSS_GAP} above the best of its seed: {', '.join(behind)}; {ALSO}"


def rate_note(rates: Sequence[Mapping[str, float]]) -> str:
    """Whose best rate was the highest tried (one mapping a seed): a wider search might serve these better."""
    top = [label for label in rates[0] if all(seed[label] == max(SIZE.rates) for seed in rates)]
    if not top:
        return "No model's chosen learning rate is the highest tried in every seed."
    each = " in every seed" if len(rates) > 1 else ""
    return f"The highest learning rate tried was the best{each} for {', '.join(top)}: a wider search might raise these."


def _weak_rulers(accuracies: Iterable[tuple[str, float]], form: str = "{:.0%}") -> list[str]:
    weak = [f"{name} {form.format(accuracy)}" for name, accuracy in accuracies if accuracy < 0.9]
    return [f"The ruler's models have not learned their task everywhere: {', '.join(weak)}."] if weak else []
