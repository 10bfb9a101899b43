"""One group's answer to a claim: which of five it is, by the p values of its comparisons after correction.

    supported                  the effects hold, and no control explains them
    holds, not attributable    the effects hold; a control moves as far, or there is none where the claim asks for one
    does not hold              the effects themselves lie on the other side; controls are never evidence against
    smaller than the margin    two one-sided tests place the effect within the claim's margin (Schuirmann 1987)
    undecided                  none of these, with the smallest effect that the design could have found

With one training a model there is no verdict at all: two checkpoints differ or do not, and nothing follows for the way
that they were trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fdlab.compare.evidence import SEEDS, Result
from fdlab.compare.over_seeds import smallest_found
from fdlab.compare.significance import ALPHA, for_and_against, within
from fdlab.records.estimate import Estimate

SUPPORTED, NOT_ATTRIBUTABLE, DOES_NOT_HOLD = "supported", "holds, not attributable", "does not hold"
SMALLER, UNDECIDED, ONE_SEED, NOT_TESTED = "smaller than the margin", "undecided", "one seed", "not tested"
EFFECT, CONTROL, CONDITION, BESIDE = "effect", "control", "condition", "beside"


@dataclass(frozen=True)
class Contrast:
    """One comparison of a claim in one group: the effect itself, a control, or what is shown beside."""

    role: str  # EFFECT, CONTROL, CONDITION, BESIDE
    what: str
    direction: str
    margin: float  # in the metric's numbers; 0: none
    stated: str  # the margin as the claims file states it
    result: Result
    control: str = ""  # the relation of a control
    log: bool = False  # whether decimal logarithms are compared

    @property
    def change(self) -> Estimate:
        """The difference with its interval; ``n`` counts the units."""
        return self.result.change

    @property
    def p(self) -> tuple[float, float]:
        """(p that the statement holds, p that it does not)."""
        return for_and_against(self.change, self.direction, self.margin, self.result.freedom)

    @property
    def p_within(self) -> float:
        """p that the difference is smaller than the margin; 1 without one."""
        return within(self.change, self.margin, self.result.freedom)

    def detectable(self, tests: int) -> float:
        """The smallest true difference found with 80 % power, as one of so many tests; NaN where unknown."""
        result = self.result
        return smallest_found(result.sd, self.change.n, result.freedom, ALPHA / max(tests, 1))


@dataclass
class Answer:
    """What one group of models says of a claim.

    ``p`` are uncorrected; ``p_holm`` and ``p_attributed_holm`` are corrected over all answers of the file.
    """

    group: str
    contrasts: list[Contrast]
    asks: bool = False  # whether the claim asks for controls
    verdict: str = UNDECIDED
    why: str = ""
    p_holm: float | None = None
    p_attributed_holm: float | None = None
    detectable: float = math.nan
    not_controlled: list[str] = field(default_factory=list)

    def of(self, *roles: str) -> list[Contrast]:
        """The comparisons of these roles."""
        return [contrast for contrast in self.contrasts if contrast.role in roles]

    @property
    def effect(self) -> Contrast:
        """The comparison that a line shows: the first of the effects."""
        return self.of(EFFECT)[0]

    @property
    def over_seeds(self) -> bool:
        """Whether seeds are the unit of all that decides, so that a verdict can be given."""
        return all(contrast.result.unit == SEEDS for contrast in self.of(EFFECT, CONDITION))

    @property
    def p_for(self) -> float:
        """That every effect holds: the largest p of any (intersection-union, Berger 1982)."""
        return max(contrast.p[0] for contrast in self.of(EFFECT, CONDITION))

    @property
    def p_against(self) -> float:
        """That some effect lies on the other side: the smallest p, Bonferroni over the effects."""
        effects = self.of(EFFECT)
        return min(1.0, len(effects) * min(contrast.p[1] for contrast in effects))

    @property
    def p_within(self) -> float:
        """That every effect is smaller than its margin; 1 where one has none, or the claim itself is of no change."""
        effects = self.of(EFFECT)
        plain = all(contrast.direction in ("up", "down") for contrast in effects)
        return max(contrast.p_within for contrast in effects) if plain else 1.0

    @property
    def p_attributed(self) -> float:
        """That every effect holds and every control is left behind; 1 where controls are asked for in vain."""
        controls = self.of(CONTROL)
        if self.asks and not controls:
            return 1.0
        return max([self.p_for, *(contrast.p[0] for contrast in controls)])

    @property
    def p(self) -> float:
        """The smallest of the p values, which goes into Holm's correction."""
        return min(self.p_for, self.p_against, self.p_within)

    @property
    def side(self) -> str:
        """What the smallest p speaks for: ``for``, ``against``, or ``within`` the margin."""
        sides = {self.p_within: "within", self.p_against: "against", self.p_for: "for"}
        return sides[self.p]

    def decide(self, tests: int) -> None:
        """Sets the verdict and its reason.

        Args:
            tests: how many answers of the file were tested.
        """
        if not self.over_seeds:
            self.verdict, self.why = ONE_SEED, ""
            return
        self.detectable = self.weakest.detectable(tests)
        adjusted = 1.0 if self.p_holm is None else self.p_holm
        level = ALPHA if adjusted <= 0 else ALPHA * min(1.0, self.p / adjusted)  # what Holm held this answer to
        if adjusted <= ALPHA and self.p_within <= level:
            self.verdict = SMALLER
        elif adjusted <= ALPHA and self.p_for <= level:
            self._attribute()
        elif adjusted <= ALPHA:
            self.verdict = DOES_NOT_HOLD
            clear = min(self.of(EFFECT), key=lambda contrast: contrast.p[1])
            self.why = f"{clear.result.metric} of {clear.what} lies on the other side"
        else:
            self.verdict, self.why = UNDECIDED, self._why_undecided(tests)

    def _attribute(self) -> None:
        """The effects hold: whether a control explains them."""
        if not self.asks:
            self.verdict = SUPPORTED
            return
        adjusted = 1.0 if self.p_attributed_holm is None else self.p_attributed_holm
        if adjusted <= ALPHA:
            self.verdict = SUPPORTED
            return
        self.verdict = NOT_ATTRIBUTABLE
        controls = self.of(CONTROL)
        if not controls:
            self.why = "none of its controls is in the cohort, so the effect may be the architecture's"
            return
        worst = max(
            controls, key=lambda contrast: (contrast.control == "own-design" and contrast.p[0] > ALPHA, contrast.p[0])
        )
        if worst.control == "own-design":
            self.why = "in the teacher's own design the effect is not seen: the new design may be its cause"
        elif worst.p[1] <= ALPHA:
            self.why = f"the control moves farther ({worst.what}, {worst.result.metric})"
        elif worst.p[0] > ALPHA:
            self.why = f"the control moves about as far ({worst.what}, {worst.result.metric})"
        else:
            self.why = f"the control {worst.what} is left behind (p {worst.p[0]:.2g}), but not after correction"

    @property
    def weakest(self) -> Contrast:
        """The effect that is least clear for the claim."""
        return max(self.of(EFFECT, CONDITION), key=lambda contrast: contrast.p[0])

    def _why_undecided(self, tests: int) -> str:
        needed = self.of(EFFECT, CONDITION)
        flat = next((c for c in needed if not c.change.low < c.change.high), None)
        if flat:
            return f"{flat.what}: {flat.change.n} {flat.result.unit} without scatter test nothing"
        if self.p <= ALPHA:
            return f"clear by itself (p {self.side} {self.p:.2g}), not after correction for {tests} answers"
        return f"the interval of {self.weakest.result.metric} includes both sides"


def over_groups(answers: Sequence[Answer]) -> str:
    """The verdict on a claim over all its groups, which is their intersection: it holds where it holds in each.

    One group in which it does not hold is enough against it.
    """
    verdicts = [answer.verdict for answer in answers]
    if not verdicts:
        return NOT_TESTED
    if len(set(verdicts)) == 1:
        return verdicts[0]
    if DOES_NOT_HOLD in verdicts:
        return DOES_NOT_HOLD
    if set(verdicts) <= {SUPPORTED, NOT_ATTRIBUTABLE}:
        return NOT_ATTRIBUTABLE
    return UNDECIDED
