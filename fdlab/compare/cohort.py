"""A cohort: the models of a comparison, what each is and which one it is compared with, from a TOML file.

data = "my_photos/"

[[model]]
label = "DINO"
source = "dino_vitbase16_pretrain.pth"
family = "contrastive"   # contrastive, masked, supervised, image-text, distilled, random, or a word of yours
design = "plain"         # the architecture in a word
score = 0.828            # a known fine-tuning accuracy, as a share (``fdlab rank``, claims)

[[model]]
label = "DINO, distilled"
source = "runs/fd-dino"
family = "distilled"
design = "student"
pair_of = "DINO"         # its teacher; differences: this one minus that one
control = "untrained"    # and minus this one: the same design without training

[[model]]
label = "untrained"
source = "random:runs/fd-dino"
family = "random"
design = "student"

Several seeds are several models that share a ``group`` and differ in ``seed``:

[[model]]
label = "DINO, distilled, seed 1"
source = "runs/fd-dino-1"
family = "distilled"
design = "student"
group = "DINO, distilled"  # the seeds of one model; without it a model is its own group
seed = 1                   # models of one seed are compared with each other
pair_of = "DINO, seed 1"   # or one teacher for all seeds
lineage = "SimCLR"         # what it is kin to, where pair_of does not say it; those that descend from it follow
variant = ""               # what differs from the usual training ("no whitening"); claims name it

What else a comparison needs follows from these keys (``roles.py``): a student of an untrained teacher is a distilled
model whose ``pair_of`` has family random; a student in the teacher's own architecture has its teacher's design.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fdlab.errors import USAGE, FdlabError, nearest

LARGEST_TOML = 16 << 20  # no list of models is longer; a device has no end


class Member(BaseModel):
    """One model of a cohort."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(min_length=1)
    source: str = Field(min_length=1)
    family: str = ""
    design: str = ""
    variant: str = ""
    pair_of: str = ""
    control: str = ""
    group: str = ""
    lineage: str = ""
    seed: int | None = None
    score: float | None = Field(None, description="a known fine-tuning accuracy, as a share")
    heads: int | None = Field(None, ge=1, description="what the file does not say of the model, as the next four")
    image_size: int | str | None = None
    activation: str | None = None
    prefix_tokens: int | None = Field(None, ge=0)
    channels: int | None = Field(None, ge=1)

    @field_validator("family")
    @classmethod
    def _shown(cls, family: str) -> str:
        return "mim" if family == "masked" else family


def _told(member: Member) -> str:
    facts = {name: getattr(member, name) for name in ("heads", "image_size", "activation", "prefix_tokens", "channels")}
    said = "&".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return ("&" if "?" in member.source and "=" in member.source.rpartition("?")[2] else "?") + said if said else ""


def group_of(member: Member) -> str:
    """The name that the seeds of a model share."""
    return member.group or member.label


class Cohort(BaseModel):
    """The models of a comparison, in the order in which they are shown."""

    model_config = ConfigDict(extra="forbid")

    model: list[Member] = Field(min_length=1)
    data: str = ""
    baseline: str = ""

    def sources(self) -> dict[str, str]:
        """Label -> SOURCE, with what the cohort says of the model: ``SOURCE?heads=2``."""
        return {member.label: member.source + _told(member) for member in self.model}

    def labels(self) -> list[str]:
        """The models' labels, in order."""
        return [member.label for member in self.model]

    def pairs(self) -> list[tuple[str, str]]:
        """(model, reference) in order: the baseline under all others, each pair, each control; every pair once."""
        pairs = [(label, self.baseline) for label in self.labels() if self.baseline and label != self.baseline]
        pairs += [(member.label, member.pair_of) for member in self.model if member.pair_of]
        pairs += [(member.label, member.control) for member in self.model if member.control]
        return list(dict.fromkeys(pairs))

    def facts(self) -> dict[str, Any]:
        """What a report keeps of the cohort: its labels in order, its members, and label -> control."""
        controls = {member.label: member.control for member in self.model if member.control}
        members = [member.model_dump(exclude_defaults=True) for member in self.model]
        return {"order": self.labels(), "cohort": members, **({"controls": controls} if controls else {})}


def read_cohort(path: Path | str) -> Cohort:
    """Reads a cohort file.

    Raises:
        FdlabError: code 2, the file is absent, no TOML, has unknown keys, or names a model that it does not hold.
    """
    try:
        return checked(Cohort.model_validate(read_toml(path, "The cohort", "is")))
    except ValidationError as error:
        faults = [_fault([str(part) for part in fault["loc"]], fault["msg"]) for fault in error.errors()]
        raise FdlabError(
            f"The cohort {path} is not right: {'; '.join(faults)}.",
            f"Keys: data, baseline, and in each [[model]] {', '.join(Member.model_fields)}.",
            code=USAGE,
        ) from None


def read_toml(path: Path | str, what: str, verb: str) -> dict[str, Any]:
    """A TOML file of the user's; ``what`` and ``verb`` begin the error's sentence: ("The claims", "are").

    Raises:
        FdlabError: code 2, the file is absent or is no TOML.
    """
    try:
        file = Path(path)
        if (not file.is_file() and file.exists()) or (file.is_file() and file.stat().st_size > LARGEST_TOML):
            raise OSError(f"It is no file, or larger than {LARGEST_TOML >> 20} MiB.")
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FdlabError(f"{what} {path} cannot be read.", error.strerror or str(error), code=USAGE) from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise FdlabError(f"{what} {path} {verb} no TOML.", str(error)[:300], code=USAGE) from None


def cohort_of(sources: Sequence[tuple[str, str]], baseline: str = "") -> Cohort:
    """A cohort of (label, source) pairs; the baseline is the first model unless another one is named."""
    members = [Member(label=label, source=source) for label, source in sources]
    return checked(Cohort(model=members, baseline=baseline or members[0].label))


def checked(cohort: Cohort) -> Cohort:
    """The cohort itself, where its labels and seeds are sound.

    Raises:
        FdlabError: code 2, two models of one label, a pair, control or baseline that is no model of it,
            or pairs that go round.
    """
    labels = cohort.labels()
    for label in labels:
        if labels.count(label) > 1:
            raise FdlabError(f"Two models of the cohort are called {label!r}.", fix="Name them apart.", code=USAGE)
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
    _seeds(cohort)
    _circles(cohort)
    return cohort


def _circles(cohort: Cohort) -> None:
    """Checks that nobody descends from itself."""
    teachers = {member.label: member.pair_of for member in cohort.model}
    for label in teachers:
        seen = [label]
        while (above := teachers.get(seen[-1], "")) and above not in seen:
            seen.append(above)
        if above:
            chain = seen[seen.index(above) :]
            raise FdlabError(
                f"The pairs of the cohort go round: {' learned from '.join([*chain, above])}.",
                "pair_of names a model's teacher, which cannot descend from it.",
                "Correct pair_of of one of them.",
                code=USAGE,
            )


def _seeds(cohort: Cohort) -> None:
    """Checks that no group has a seed twice, and that each model of a group of several has one."""
    groups: dict[str, list[int | None]] = {}
    for member in cohort.model:
        groups.setdefault(group_of(member), []).append(member.seed)
    for group, seeds in groups.items():
        if len(seeds) > 1 and (None in seeds or len(set(seeds)) < len(seeds)):
            shown = ", ".join("none" if seed is None else str(seed) for seed in seeds)
            raise FdlabError(
                f"The models of group {group!r} have the seeds {shown}.",
                "Models of one group are the seeds of one model.",
                "Give each its own seed = N, or another group.",
                code=USAGE,
            )


def _fault(keys: list[str], message: str) -> str:
    """``model.0.sorce: ...`` with the nearest key where the key is unknown."""
    key = keys[-1] if keys else ""
    hint = nearest(key, [*Member.model_fields, *Cohort.model_fields]) if "Extra" in message else ""
    return f"{'.'.join(keys)}: {message.lower()}{hint}"
