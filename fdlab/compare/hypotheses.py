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
smallest = 0.0                # the smallest effect that matters, in the metric's unit; needed for none
decides = true                # false: shown beside the verdict, without a part in it

The claim "what the student changes, another model changes too" has ``reached_by = RELATION`` and ``share``: that model
must reach this share of the difference between ``first`` and ``minus``.
"""

from __future__ import annotations

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

SCORE = "score"  # the cohort's own column, usable as a metric
Direction = Literal["up", "down", "not up", "not down", "none"]


class Measure(BaseModel):
    """One number that a claim speaks of, and what it says about it."""

    model_config = ConfigDict(extra="forbid")

    metric: list[str] = Field(min_length=1)
    direction: Direction
    smallest: float = Field(0.0, ge=0)
    decides: bool = True

    @field_validator("metric", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _margin(self) -> Measure:
        if self.direction == "none" and not self.smallest:
            raise ValueError("no change (none) needs the smallest effect that matters")
        return self


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
    blocks: str = LATE
    measures: list[Measure] = []
    needs: str = ""
    not_controlled: list[str] = []

    @model_validator(mode="after")
    def _whole(self) -> Claim:
        if not (self.needs or any(measure.decides for measure in self.measures)):
            raise ValueError("it has no measure that decides, and no needs that says why")
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
    """H1 to H13 and C1 to C4."""
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
