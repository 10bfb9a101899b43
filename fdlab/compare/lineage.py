"""Who descends from whom: the lineages of a cohort, which are its independent units.

A model is of its own lineage, or of that of its ``pair_of`` (the model that it was distilled from), up to the first
one of the chain. ``control`` makes no lineage: models that share an untrained start learnt nothing of each other. Nor
does ``family``: every distilled model is of family "distilled". Models that are related in another way (the same
method trained in two designs, checkpoints of one run) say so by one ``lineage`` of their own, which also stands for
all that descend from them.
"""

from __future__ import annotations

from fdlab.compare.cohort import Cohort, Member, group_of


def lineages(cohort: Cohort) -> dict[str, str]:
    """Group (the seeds of a model) -> the name of its lineage. A circle of parents is refused by ``cohort.checked``.

    >>> def made(label, **keys): return Member(label=label, source="x", **keys)
    >>> lineages(Cohort(model=[made("a"), made("b", pair_of="a"), made("c", pair_of="b"), made("d")]))
    {'a': 'a', 'b': 'a', 'c': 'a', 'd': 'd'}
    """
    members = {member.label: member for member in cohort.model}
    found: dict[str, str] = {}
    same: dict[str, str] = {}  # a lineage -> the one that it is a part of
    for member in cohort.model:
        name = _last(_founder(member, members), same)
        known = _last(found.setdefault(group_of(member), name), same)
        if known != name:  # seeds of one model descend from different ones: these are one lineage
            same[name] = known
    return {group: _last(name, same) for group, name in found.items()}


def _founder(member: Member, members: dict[str, Member]) -> str:
    """The explicit lineage of the nearest ancestor that has one, else the group of the first ancestor."""
    passed = {member.label}
    while not member.lineage and member.pair_of in members and member.pair_of not in passed:
        member = members[member.pair_of]
        passed.add(member.label)
    return member.lineage or group_of(member)


def _last(name: str, same: dict[str, str]) -> str:
    while name in same:
        name = same[name]
    return name
