"""Tensors beside an encoder: heads, losses and counters are left out and named; they are no reason to refuse a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# At the network's own level, where a file has no prefix that separates it from the heads.
_BESIDE = re.compile(
    r"n_averaged|"  # the counter of torch's AveragedModel
    r"(heads?|neck|fpn\d|fc|classifier|linear|mlp_head|last_layer|centers?|queue(_ptr)?"
    r"|\w*(_head|projector|predictor|_classifier|criterion|_loss|_center))(\..*)?"
)
MAX_NAMED = 6


def is_beside(key: str) -> bool:
    """Whether a key at the network's own level belongs to a head, a loss or a counter.

    >>> is_beside("head.1.weight"), is_beside("fc_norm.weight"), is_beside("blocks.0.mlp.fc1.weight")
    (True, False, False)
    """
    return _BESIDE.fullmatch(key) is not None


def said(keys: Iterable[str]) -> tuple[str, ...]:
    """One sentence on what was left out, by the names of the parts; none where nothing was."""
    parts = Counter(part_of(key) for key in keys)
    if not parts:
        return ()
    names = [f"{name} ({count} tensor{'s' if count > 1 else ''})" for name, count in parts.items()]
    more = f" and {len(names) - MAX_NAMED} more parts" if len(names) > MAX_NAMED else ""
    return (f"left out, no part of the encoder: {', '.join(names[:MAX_NAMED])}{more}",)


def part_of(key: str) -> str:
    """The part that a key belongs to: its first name, or two where the first is a wrapper's."""
    names = key.removeprefix("/").split(".")
    short = len(names) < 3 or names[1].isdigit() or names[-2] == names[0]
    return names[0] if short else ".".join(names[:2])
