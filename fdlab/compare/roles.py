"""Who is whose teacher and control in a cohort, found from families, designs, seeds and pairs.

The relations of a distilled model: ``teacher`` (its ``pair_of``); ``own-design`` (the same teacher distilled into the
teacher's own architecture); ``random-teacher`` (a student of the same design whose teacher was never trained);
``undistilled`` (the teacher's own method in the student's design); ``untrained`` (its ``control``).
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from fdlab.compare.cohort import Cohort, Member, group_of

RELATIONS = ("teacher", "own-design", "random-teacher", "undistilled", "untrained")
SAYS = {
    "teacher": "its teacher (pair_of)",
    "own-design": "the same teacher distilled into its own design (a distilled model with its teacher's design)",
    "random-teacher": "a student of the same design from an untrained teacher (pair_of a model of family random)",
    "undistilled": "the teacher's method in the student's design (the teacher's family, this design, this seed)",
    "untrained": "the same design without training (control)",
}


class Selector(BaseModel):
    """Which models of a cohort are meant; a key that is not given admits all, but ``variant`` only the usual one."""

    model_config = ConfigDict(extra="forbid")

    family: list[str] = []
    design: list[str] = []
    teacher: list[str] = []  # families of the teacher
    group: list[str] = []
    variant: list[str] = [""]
    own_design: bool | None = None  # whether it has its teacher's design

    @field_validator("family", "teacher")
    @classmethod
    def _shown(cls, families: list[str]) -> list[str]:
        return ["mim" if family == "masked" else family for family in families]

    @field_validator("*", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def __str__(self) -> str:
        words = {
            key: " or ".join(map(str, value)) if isinstance(value, list) else str(value).lower()
            for key, value in self.model_dump(exclude_unset=True).items()
        }
        return ", ".join(f"{key} {value}" for key, value in words.items()) or "any model"


class Roles:
    """A cohort's models by what they are to each other."""

    def __init__(self, cohort: Cohort) -> None:
        self.members = {member.label: member for member in cohort.model}

    def select(self, selector: Selector) -> list[Member]:
        """The models that are meant, in the cohort's order."""
        return [member for member in self.members.values() if self._fits(member, selector)]

    def related(self, member: Member, relation: str | Selector) -> Member | None:
        """The model that stands in this relation to ``member``; None where the cohort has none.

        A selector finds the model of the same teacher and seed that differs in the selector's keys alone.
        """
        if isinstance(relation, Selector):
            return self._like(member, relation)
        if relation == "teacher":
            return self.members.get(member.pair_of)
        if relation == "untrained":
            return self.members.get(member.control)
        fits = {"own-design": self._in_own_design, "random-teacher": self._random, "undistilled": self._undistilled}[
            relation
        ]
        return next((other for other in self.members.values() if other is not member and fits(other, member)), None)

    def variant(self, member: Member, name: str) -> Member | None:
        """The model that differs from ``member`` in its variant alone, which is ``name``."""
        return self._like(member, Selector(variant=name))

    def has_own_design(self, member: Member) -> bool:
        """Whether a model was distilled into its teacher's design, as far as the cohort states designs."""
        teacher = self.members.get(member.pair_of)
        return teacher is not None and bool(member.design) and member.design == teacher.design

    def _fits(self, member: Member, selector: Selector) -> bool:
        teacher = self.members.get(member.pair_of)
        return (
            member.family in (selector.family or [member.family])
            and member.design in (selector.design or [member.design])
            and group_of(member) in (selector.group or [group_of(member)])
            and member.variant in selector.variant
            and (not selector.teacher or (teacher is not None and teacher.family in selector.teacher))
            and selector.own_design in (None, self.has_own_design(member))
        )

    def _like(self, member: Member, selector: Selector) -> Member | None:
        """The model with the selector's keys and, in all others, the keys of ``member``.

        Where the selector speaks of another training (family, teacher, group), the design stays the same as long as
        the cohort states designs and the selector does not.
        """
        keys = selector.model_fields_set
        free = bool(keys & {"teacher", "family", "group"})
        for other in self.members.values():
            if other is member or not self._fits(other, selector) or not _seed_fits(other, member):
                continue
            if "design" not in keys and other.design != member.design:
                continue
            if free or (other.pair_of, other.family) == (member.pair_of, member.family):
                return other
        return None

    def _in_own_design(self, other: Member, member: Member) -> bool:
        usual = other.family == "distilled" and other.variant == "" and _seed_fits(other, member)
        return usual and other.pair_of == member.pair_of and self.has_own_design(other)

    def _random(self, other: Member, member: Member) -> bool:
        teacher = self.members.get(other.pair_of)
        alike = other.family == "distilled" and other.design == member.design and _seed_fits(other, member)
        return alike and other.variant == "" and teacher is not None and teacher.family == "random"

    def _undistilled(self, other: Member, member: Member) -> bool:
        teacher = self.members.get(member.pair_of)
        if teacher is None or not member.design or teacher.design == member.design:
            return False
        alike = other.design == member.design and _seed_fits(other, member) and other.variant == ""
        return alike and other.family == teacher.family and other.label != teacher.label


def _seed_fits(other: Member, member: Member) -> bool:
    """The same seed, or the one model that stands for all seeds."""
    return other.seed is None or other.seed == member.seed
