"""A cohort: the models of a comparison, what each is and which one it is compared with, from a TOML file.

data = "my_photos/"

[[model]]
label = "DINO"
source = "dino_vitbase16_pretrain.pth"
family = "contrastive"

[[model]]
label = "DINO, distilled"
source = "runs/fd-dino"
family = "distilled"
pair_of = "DINO"         # differences: this one minus that one
control = "untrained"    # and minus this one

[[model]]
label = "untrained"
source = "random:runs/fd-dino"
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fdlab.errors import USAGE, FdlabError, nearest


class Member(BaseModel):
    """One model of a cohort."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1)
    source: str = Field(min_length=1)
    family: str = ""
    pair_of: str = ""
    control: str = ""
    score: float | None = Field(None, description="a known fine-tuning score, larger is better")


class Cohort(BaseModel):
    """The models of a comparison, in the order in which they are shown."""

    model_config = ConfigDict(extra="forbid")

    model: list[Member] = Field(min_length=1)
    data: str = ""
    baseline: str = ""

    def labels(self) -> list[str]:
        return [member.label for member in self.model]

    def pairs(self) -> list[tuple[str, str]]:
        """(model, reference) in order: the baseline under all others, each pair, each control; every pair once."""
        found = [(label, self.baseline) for label in self.labels() if self.baseline and label != self.baseline]
        found += [(member.label, member.pair_of) for member in self.model if member.pair_of]
        found += [(member.label, member.control) for member in self.model if member.control]
        return list(dict.fromkeys(found))


def read_cohort(path: Path | str) -> Cohort:
    """A cohort file.

    Raises:
        FdlabError: code 2, the file is absent, no TOML, has unknown keys, or names a model that it does not hold.
    """
    path = Path(path)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FdlabError(f"The cohort {path} cannot be read.", error.strerror or str(error), code=USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FdlabError(f"The cohort {path} is no TOML.", str(error), code=USAGE) from None
    try:
        return checked(Cohort.model_validate(given))
    except ValidationError as error:
        faults = [_fault([str(part) for part in fault["loc"]], fault["msg"]) for fault in error.errors()]
        raise FdlabError(
            f"The cohort {path} is not right: {'; '.join(faults)}.",
            f"Keys: data, baseline, and in each [[model]] {', '.join(Member.model_fields)}.",
            code=USAGE,
        ) from None


def cohort_of(sources: Sequence[tuple[str, str]], baseline: str = "") -> Cohort:
    """A cohort of (label, source); the baseline is the first one unless named."""
    members = [Member(label=label, source=source) for label, source in sources]
    return checked(Cohort(model=members, baseline=baseline or members[0].label))


def checked(cohort: Cohort) -> Cohort:
    """The cohort, after a look at its labels.

    Raises:
        FdlabError: code 2, two models of one label, or a pair, control or baseline that is no model of it.
    """
    labels = cohort.labels()
    for label in labels:
        if labels.count(label) > 1:
            raise FdlabError(f"Two models of the cohort are called {label!r}.", "", "Name them apart.", code=USAGE)
    wanted = [("baseline", cohort.baseline)]
    wanted += [(f"pair_of of {m.label!r}", m.pair_of) for m in cohort.model]
    wanted += [(f"control of {m.label!r}", m.control) for m in cohort.model]
    for what, name in wanted:
        if name and name not in labels:
            raise FdlabError(
                f"The {what} is {name!r}, which is no model here.{nearest(name, labels)}",
                f"Models: {', '.join(labels)}.",
                code=USAGE,
            )
    return cohort


def _fault(place: list[str], message: str) -> str:
    key = place[-1] if place else ""
    hint = nearest(key, [*Member.model_fields, *Cohort.model_fields]) if "Extra" in message else ""
    return f"{'.'.join(place)}: {message.lower()}{hint}"
