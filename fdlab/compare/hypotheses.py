"""Claims as a TOML file states them; ``claims.toml`` beside this file holds those of the paper and of its critics.

[[claim]]
id = "H7"
statement = "Distilling spreads the deep heads out."
source = "where it was published"
first = { family = "distilled", own_design = false, teacher = ["contrastive", "supervised"] }
minus = "teacher"             # a relation of roles.py, or keys like ``first``: { variant = "no whitening" }
controls = ["own-design", "random-teacher"]   # the effect must be there too, or not be as large without the teacher
blocks = "last quarter"       # first or last third, quarter, half; last; all (measures by block)
needs = ""                    # why no cohort of records can test it: it is then listed as not tested
not_controlled = ["..."]      # what this comparison leaves open

[[claim.measures]]
metric = "distance_spread"    # or alternatives, the first that was measured: ["best_accuracy", "accuracy"]
direction = "up"              # up, down, not up, not down, none (no change)
margin = "0.5 px"             # the smallest effect that matters, with its unit; needed for none
decides = true                # false: shown beside the verdict, without a part in it
log = false                   # true: decimal logarithms are compared, margins are in "decades"

Units of margins: "points" (of accuracies and other shares, 0.01 each), "share" (of numbers without a unit), "decades"
(with log), else the metric's own unit ("px", "nats").

Other forms of a claim:

reached_by = RELATION, share = 0.5   # that model must reach this share of the difference between first and minus
levels = ["no drop path", "", "drop path 0.2", "drop path 0.3"]   # variants in order, evenly spaced: their quadratic
                              # contrast, which is below 0 (down) where the curve has a peak
than = { variant = "" }, than_minus = { variant = "no whitening" }   # the difference must exceed (up) that of these two
carried_by = "r2_relative"    # the change of the measure must go with the change of this one, over seeds within groups
agreement = 0.5               # Kendall's W of the ranks of all models (first) over the objectives of the measure,
                              # against this value: down says that ranks depend on the setting
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fdlab.compare.cohort import read_toml
from fdlab.compare.roles import RELATIONS, Selector
from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.records.means import LATE, PARTS
from fdlab.records.metrics import METRICS
from fdlab.records.metrics.names import ACCURACIES

SCORE = "score"  # the cohort's own column, usable as a metric
Direction = Literal["up", "down", "not up", "not down", "none"]


class Measure(BaseModel):
    """One number that a claim speaks of, and what it says about it."""

    model_config = ConfigDict(extra="forbid")

    metric: list[str] = Field(min_length=1)
    direction: Direction
    margin: str = ""
    decides: bool = True
    log: bool = False

    @field_validator("metric", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _margin(self) -> Measure:
        if self.direction == "none" and not self.margin:
            raise ValueError("no change (none) needs margin, the smallest effect that matters, e.g. '0.5 points'")
        if self.margin:
            self.size  # noqa: B018 - raises where it is not understood
        return self

    @property
    def size(self) -> float:
        """The margin in the metric's own numbers; 0 without one.

        >>> Measure(metric="accuracy", direction="none", margin="0.5 points").size
        0.005

        Raises:
            ValueError: no number, no unit, or another one than the metric's.
        """
        if not self.margin:
            return 0.0
        number, _, unit = self.margin.strip().partition(" ")
        units = _units(self)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"margin {self.margin!r} is no number above 0 with a unit, like '0.5 {next(iter(units))}'")
        if unit.strip() not in units:
            said = f"has the unit {unit.strip()!r}" if unit.strip() else "has no unit"
            raise ValueError(f"margin {self.margin!r} {said}; write '{number} {next(iter(units))}'")
        return value * units[unit.strip()]


def _units(measure: Measure) -> dict[str, float]:
    """The units that a margin of this measure may have, with what one of each is in the metric's numbers."""
    if measure.log:
        return {"decades": 1.0}
    if measure.metric[0] == SCORE:
        return {"points": 0.01}
    metric = METRICS.get(measure.metric[0])
    if metric is None:
        return {"share": 1.0, "points": 0.01}
    if metric.unit:
        return {metric.unit: 1.0}
    accuracy = measure.metric[0] in ACCURACIES
    return {"points": 0.01, "share": 1.0} if accuracy else {"share": 1.0}


class Claim(BaseModel):
    """One hypothesis; the keys are explained in the module's text."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    source: str = ""
    first: Selector = Selector()
    minus: str | Selector = "teacher"
    controls: list[str] = []
    reached_by: str = ""
    share: float = Field(0.5, gt=0, le=1)
    levels: list[str] = []
    than: Selector | None = None
    than_minus: Selector | None = None
    carried_by: str = ""
    agreement: float = Field(0.0, ge=0, lt=1)
    blocks: str = LATE
    measures: list[Measure] = []
    needs: str = ""
    not_controlled: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        if not (self.needs or any(measure.decides for measure in self.measures)):
            raise ValueError("it has no measure that decides, and no needs that says why")
        if self.levels and len(self.levels) < 3:
            raise ValueError("levels needs at least three variants: two have no peak")
        if (self.than is None) != (self.than_minus is None):
            raise ValueError("than and than_minus need each other")
        for relation in [self.minus, self.reached_by, *self.controls]:
            if isinstance(relation, str) and relation and relation not in RELATIONS:
                raise ValueError(f"{relation!r} is no relation ({', '.join(RELATIONS)}).{nearest(relation, RELATIONS)}")
        if self.blocks not in PARTS:
            raise ValueError(f"blocks are {', '.join(PARTS)}; not {self.blocks!r}.{nearest(self.blocks, PARTS)}")
        return self


class ClaimsFile(BaseModel):
    """All claims of a file."""

    model_config = ConfigDict(extra="forbid")

    claim: list[Claim] = Field(min_length=1)


def packaged_claims() -> list[Claim]:
    """The claims of ``claims.toml``."""
    text = resources.files("fdlab.compare").joinpath("claims.toml").read_text(encoding="utf-8")
    return ClaimsFile.model_validate(tomllib.loads(text)).claim


def read_claims(path: Path | str, measured: Iterable[str] = ()) -> list[Claim]:
    """The claims of a file.

    Args:
        measured: metrics that a table has beside those that fdlab defines.

    Raises:
        FdlabError: code 2, the file is absent, no TOML, has unknown keys, relations or metrics, or one id twice.
    """
    path, content = Path(path), read_toml(path, "The claims", "are")
    try:
        claims = ClaimsFile.model_validate(content).claim
    except ValidationError as error:
        faults = [_fault(content, list(fault["loc"]), fault["msg"]) for fault in error.errors()]
        raise FdlabError(
            f"The claims {path} are not right: {'; '.join(dict.fromkeys(faults))}.",
            f"Keys of each [[claim]]: {', '.join(Claim.model_fields)}.",
            f"Of first and minus: {', '.join(Selector.model_fields)}.",
            USAGE,
        ) from None
    packaged = {metric for claim in packaged_claims() for measure in claim.measures for metric in measure.metric}
    _checked(claims, path, {*METRICS, SCORE, *packaged, *measured})
    return claims


def _checked(claims: list[Claim], path: Path, known: set[str]) -> None:
    names = [claim.id for claim in claims]
    for name in names:
        if names.count(name) > 1:
            raise FdlabError(f"Two claims of {path} have the id {name!r}.", fix="Name them apart.", code=USAGE)
    for claim in claims:
        for measure in claim.measures:
            for metric in measure.metric:
                if metric not in known:
                    raise FdlabError(
                        f"The claim {claim.id!r} of {path} speaks of {metric!r}, which is no metric."
                        f"{nearest(metric, known)}",
                        fix="`fdlab explain NAME` knows every metric; the table of the report may have more.",
                        code=USAGE,
                    )


def _fault(content: Any, keys: list[Any], message: str) -> str:
    """``H7.measures.0.direction: ...`` with the nearest key where the key is unknown."""
    hint, where = "", [str(key) for key in keys if key not in ("claim", "Selector", "str")]
    if keys[:1] == ["claim"] and len(keys) > 1 and isinstance(keys[1], int):
        entry = content["claim"][keys[1]]
        where[0] = str(entry.get("id") or f"claim {keys[1] + 1}") if isinstance(entry, dict) else where[0]
    if "Extra" in message and keys:
        hint = nearest(str(keys[-1]), [*Claim.model_fields, *Measure.model_fields, *Selector.model_fields])
    text = message.removeprefix("Value error, ")
    return f"{'.'.join(where)}: {text[:1].lower()}{text[1:]}{hint}"
