"""What a comparison found: for each question the paired differences of its measures, corrected together, with a rule.

The pairs are fixed beforehand (``questions.py``), never chosen by what was measured. Every p value of every pair and
measure is corrected in one family (Holm 1979); a difference that does not survive is not stated. The words are made
in ``report/findings.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from fdlab.compare.cohort import Cohort
from fdlab.compare.over_seeds import over_seeds
from fdlab.compare.paired import NOT_COMPARABLE, UNPAIRED
from fdlab.compare.questions import CONTROL, INSTEAD_OF_PIXELS, KINDS, QUESTIONS, Pair, Trained, fixed_pairs
from fdlab.compare.significance import ALPHA, holm, two_sided, within
from fdlab.records.estimate import UNKNOWN, Estimate
from fdlab.records.means import rows_of
from fdlab.records.metrics import METRICS
from fdlab.records.table import differences, values

FEWEST = 8  # images, below which there are numbers and no sentence
LOSS_GAP = 0.1  # a final training loss so far above the other's is called under-trained
OF_HEADS = ("distance_spread", "head_similarity")  # undefined where a block has one head
READOUTS = ("knn", "linear_probe")  # they have a row for every pooling of the tokens
# Rules, in the order in which their sentences stand.
RULES = ("differs", "alike", "same", "under-trained", "uncorrected", "unclear", "unclear all", "numbers", "undefined")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference and what may be said of it: the one source of page, LaTeX and terminal.

    Attributes:
        question: a name of ``QUESTIONS``.
        metric, kind, model, reference: what was compared: ``model`` minus ``reference``.
        change: the difference with its 95 % interval; n images, or trainings where there are several.
        freedom: the degrees of freedom of its interval.
        images: how many images (or test images) each model was measured on.
        p, p_holm: two-sided, of no difference; ``comparisons`` of them were corrected together.
        margin: the smallest difference that matters, in the unit of the metric; NaN where none is stated.
        rule: one of ``RULES``.
        trainings: of each of both; 1 where the images alone are the sample.
        paired: whether both were measured on the same images, image by image.
        start: how the untrained start differs from the reference: "" (less), ``as much``, ``may`` (it cannot be told).
        models: whom the rule speaks of, where not of the pair: those with one head, those under-trained, all that
            cannot be told apart.
        ends: the lowest and the highest value of those that cannot be told apart.
        headline: whether it is the sentence of its question; the others stand below it.
        sentence, limit, badge: the words; ``limit`` says what the sentence does not.
    """

    question: str
    metric: str
    kind: str
    model: str
    reference: str
    change: Estimate = UNKNOWN
    freedom: float = math.nan
    images: int = 0
    p: float = 1.0
    p_holm: float = 1.0
    comparisons: int = 0
    margin: float = math.nan
    rule: str = ""
    trainings: int = 1
    paired: bool = True
    start: str = ""
    models: tuple[str, ...] = ()
    ends: tuple[float, ...] = ()
    headline: bool = False
    sentence: str = ""
    limit: str = ""
    badge: str = ""

    @property
    def size(self) -> float:
        """The difference in margins: how many times the smallest one that matters; 0 where none is stated."""
        return abs(self.change.value) / self.margin if self.margin > 0 and self.change.known else 0.0

    def fact(self) -> dict[str, Any]:
        """As ``facts.json`` keeps it: plain values; numbers that are unknown are left out."""
        plain = {**asdict(self), **self.change.row, "n": self.change.n, "models": list(self.models)}
        plain |= {"ends": list(self.ends)}
        del plain["change"]
        return {key: value for key, value in plain.items() if not (isinstance(value, float) and math.isnan(value))}


def find(
    table: pd.DataFrame,
    cohort: Cohort,
    *,
    starts: Mapping[str, str] | None = None,
    uniform: Mapping[str, float] | None = None,
) -> list[Finding]:
    """All findings of a comparison, without words: the question of the largest difference first, and in each its
    headline first.

    Args:
        table: the one table, with values and differences.
        cohort: what the models are to each other.
        starts: model -> its untrained start, where the cohort does not name it.
        uniform: model -> the distance of uniform attention on its grid, in pixels.
    """
    starts = {**(starts or {}), **{member.label: member.control for member in cohort.model if member.control}}
    pairs = fixed_pairs(cohort, starts)
    source = _Source(table, uniform or {}, starts, pairs)
    found = [f for question in QUESTIONS for metric in question.metrics for f in source.measured(question.name, metric)]
    judged = [replace(f, start=source.start(f)) if f.rule == "differs" else f for f in _judged(found)]
    return _ordered(judged, source.value)


# --- from the table --------------------------------------------------------------------------------------


class _Source:
    """What the table says of the fixed pairs."""

    def __init__(
        self,
        table: pd.DataFrame,
        uniform: Mapping[str, float],
        starts: Mapping[str, str],
        pairs: Mapping[Pair, list[Trained]],
    ) -> None:
        changes = differences(table)
        self.values, self.changes = values(table), changes[changes["block"].isna()]
        self.uniform, self.starts, self.pairs = uniform, starts, pairs
        self.labels: dict[str, set[str]] = {}  # group -> its trainings
        for pair, trained in pairs.items():
            self.labels.setdefault(pair.model, set()).update(one.model for one in trained)
            self.labels.setdefault(pair.reference, set()).update(one.reference for one in trained)

    def measured(self, question: str, metric: str) -> list[Finding]:
        """The differences of one measure, not yet judged; pairs of which nothing was measured are left out."""
        found = {pair: self._one(question, metric, pair) for pair in self.pairs}
        known = {pair: finding for pair, finding in found.items() if finding is not None}
        several = {pair: f.metric for pair, f in known.items() if f.trainings > 1 and not f.rule}
        return list((known | self._over_seeds(known, several)).values())

    def _one(self, question: str, metric: str, pair: Pair) -> Finding | None:
        """The finding of a pair, of its first training where there are several."""
        trained = self.pairs[pair]
        rows = self._rows(metric, trained)
        pixels = bool((rows["objective"] == NOT_COMPARABLE).any())
        if pixels and metric in INSTEAD_OF_PIXELS:
            metric, pixels = INSTEAD_OF_PIXELS[metric], False
            rows = self._rows(metric, trained)
        base = Finding(question=question, metric=metric, **pair._asdict(), trainings=len(trained))
        names = tuple(dict.fromkeys(name for both in trained for name in both))
        single = tuple(name for name in names if self._one_head(name))
        own = self.values[(self.values["metric"] == metric) & self.values["model"].isin(names)]
        if single and metric in OF_HEADS and len(own) + len(rows):
            return replace(base, rule="undefined", models=single)
        if rows.empty:
            return None
        if pixels:
            return replace(base, rule="undefined")
        rows = rows[rows["value"].notna()]
        if rows.empty:
            return None
        first, images = rows.iloc[0], 0 if rows["n"].isna().all() else int(rows["n"].min())
        change = Estimate(float(first["value"]), float(first["low"]), float(first["high"]), images)
        behind = self._under_trained(trained) if metric == "accuracy" else ()
        margin = self._margin(metric, trained[0].model)
        paired = first["objective"] != UNPAIRED
        base = replace(base, images=images, margin=margin, paired=paired, models=behind)
        return _tested(replace(base, rule="under-trained" if behind else ""), change, max(images - 1.0, 1.0))

    def _rows(self, metric: str, trained: Sequence[Trained]) -> pd.DataFrame:
        """The differences of a measure of whole models, one a training, in the order of the trainings."""
        own = self.changes[self.changes["metric"] == metric]
        return pd.concat([own[(own["model"] == m) & (own["reference"] == r)].head(1) for m, r in trained])

    def _over_seeds(self, known: Mapping[Pair, Finding], several: Mapping[Pair, str]) -> dict[Pair, Finding]:
        """Means over trainings, paired by seed. Pairs that share no model lend each other their scatter."""
        units = {str(pair): self._rows(metric, self.pairs[pair])["value"].tolist() for pair, metric in several.items()}
        names = [name for pair in several for name in pair[1:]]
        apart = len(set(names)) == len(names) and len(set(several.values())) == 1
        means = over_seeds(units) if apart else {key: over_seeds({key: own})[key] for key, own in units.items()}
        found = {pair: means[str(pair)] for pair in several}
        return {
            pair: _tested(replace(known[pair], trainings=mean.change.n), mean.change, max(mean.freedom, 1))
            for pair, mean in found.items()
        }

    def _one_head(self, label: str) -> bool:
        """Whether no block has a second head."""
        heads = self.values[self.values["model"] == label]["head"].dropna()
        return len(heads) > 0 and int(heads.max()) == 0

    def _margin(self, metric: str, label: str) -> float:
        """The smallest difference that matters; of pixels it is stated as a share of uniform attention's distance."""
        known = METRICS[metric]
        if known.matters is None:
            return math.nan
        return known.matters * (self.uniform.get(label, math.nan) if known.unit == "px" else 1.0)

    def _under_trained(self, trained: Sequence[Trained]) -> tuple[str, ...]:
        """Models of one training whose final loss lies ``LOSS_GAP`` above that of the other of the pair."""
        loss = {name: self.value(name, "final_loss") for name in trained[0]}
        return tuple(name for name in loss if len(trained) == 1 and loss[name] > min(loss.values()) + LOSS_GAP)

    def value(self, name: str, metric: str) -> float:
        """The value of a model, or of a group's trainings: of the whole model, else the mean over the last half of
        the blocks; NaN where there is none."""
        known = self.values["model"].isin(self.labels.get(name, {name}))
        own = self.values[known & (self.values["metric"] == metric)]
        if metric in READOUTS:  # the pooling that differences are taken of
            own = own[own["objective"].str.startswith("patch mean")]
        whole = own[own["block"].isna()]
        return float((rows_of(own) if whole.empty else whole)["value"].mean())

    def start(self, finding: Finding) -> str:
        """Whether the untrained start of the model differs from the reference as the model does (``Finding.start``)."""
        trained = self.pairs[Pair(finding.kind, finding.model, finding.reference)][0]
        untrained = self.starts.get(trained.model, "")
        if finding.kind == CONTROL or untrained in ("", trained.reference):
            return ""
        sign = math.copysign(1.0, finding.change.value)
        shift = sign * (self.value(untrained, finding.metric) - self.value(trained.reference, finding.metric))
        if shift >= abs(finding.change.value):
            return "as much"
        own = self._rows(finding.metric, [Trained(trained.model, untrained)])
        clear = own["low"] > 0 if sign > 0 else own["high"] < 0
        return "may" if shift > 0 and len(own) and not clear.any() else ""


def _tested(finding: Finding, change: Estimate, freedom: float) -> Finding:
    """The finding with its difference and the p of none; the p is 1 where nothing can be tested."""
    p = two_sided(change, freedom) if change.bounded else 1.0
    return replace(finding, change=change, freedom=freedom, p=p)


# --- the rules -------------------------------------------------------------------------------------------


def _judged(found: Sequence[Finding]) -> list[Finding]:
    """Every finding with its corrected p and its rule; what nothing is said of is not in the family."""
    found = [f if f.rule else replace(f, rule="numbers") if _too_few(f) else f for f in found]
    tested = [number for number, f in enumerate(found) if not f.rule]
    differ = holm([found[number].p for number in tested])
    alike = holm([_p_alike(found[number]) for number in tested])
    judged = list(found)
    for number, p_differs, p_alike in zip(tested, differ, alike, strict=True):
        rule = _rule(found[number].change, p_differs, p_alike)
        judged[number] = replace(found[number], p_holm=p_differs, comparisons=len(tested), rule=rule)
    return judged


def _too_few(finding: Finding) -> bool:
    """Too few images for a sentence, or no interval."""
    return finding.images < FEWEST or not finding.change.bounded


def _p_alike(finding: Finding) -> float:
    """Of a difference that is as large as the margin: below 0.05 where the 95 % interval, which the sentence prints,
    lies within it."""
    return min(1.0, 2 * within(finding.change, finding.margin, finding.freedom))


def _rule(change: Estimate, p_differs: float, p_alike: float) -> str:
    if change.low == change.value == change.high == 0:
        return "same"
    if p_alike < ALPHA:
        return "alike"
    if p_differs < ALPHA:
        return "differs"
    return "uncorrected" if change.low > 0 or change.high < 0 else "unclear"


# --- which sentence comes first --------------------------------------------------------------------------


def _ordered(found: Sequence[Finding], value: Callable[[str, str], float]) -> list[Finding]:
    """Question by question, the largest stated difference first, in margins; in each question its headline first."""
    groups: dict[str, list[Finding]] = {}
    for finding in found:
        groups.setdefault(finding.question, []).append(finding)
    ordered = [_with_headline(group, value) for group in groups.values()]
    return [finding for group in sorted(ordered, key=lambda group: _rank(group[0])) for finding in group]


def _rank(finding: Finding) -> tuple[int, float]:
    return RULES.index(finding.rule), -finding.size


def _with_headline(group: Sequence[Finding], value: Callable[[str, str], float]) -> list[Finding]:
    """The findings of one question: those of the first kind of pair of which anything is said come first.

    Where several pairs of that kind were measured and none of them differs clearly, one sentence says so of all.
    """
    order = sorted(group, key=lambda f: (f.rule == "undefined", KINDS.index(f.kind), *_rank(f)))
    first = [f for f in group if (f.kind, f.metric, f.rule == "undefined") == (order[0].kind, order[0].metric, False)]
    if len(first) > 1 and all(f.rule in ("unclear", "uncorrected") for f in first):
        return [_together(first, value), *order]
    return [replace(order[0], headline=True), *order[1:]]


def _together(first: Sequence[Finding], value: Callable[[str, str], float]) -> Finding:
    """One finding for several pairs none of which differs clearly, with the bound that lies farthest from 0."""
    bound = max(max(abs(f.change.low), abs(f.change.high)) for f in first)
    names = tuple(dict.fromkeys(name for f in first for name in (f.reference, f.model)))
    known = [number for number in (value(name, first[0].metric) for name in names) if math.isfinite(number)]
    return replace(
        first[0],
        rule="unclear all",
        change=Estimate(math.nan, -bound, bound, first[0].change.n),
        p=min(f.p for f in first),
        p_holm=min(f.p_holm for f in first),
        models=names,
        ends=(min(known), max(known)) if known else (),
        headline=True,
    )
