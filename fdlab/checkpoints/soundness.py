"""What cannot be right in a file is refused: weights that are not finite, words that no network can have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.unpickle import AGAIN, refusal
from fdlab.errors import NOT_UNDERSTOOD, FdlabError


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a value that is no finite number, or None."""
    for name, tensor in tensors:
        # The sum is not finite where a value is not; where large values alone make it so, every value is asked.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return None


def refuse_not_finite(source: object, name: str, tensors: Mapping[str, Tensor]) -> FdlabError:
    """The error on a tensor whose values are not all numbers; every figure made from it would be nothing."""
    tensor = tensors[name]
    count = int((~tensor.isfinite()).sum())
    return FdlabError(
        f"{source} has weights that are not finite.",
        f"{name}: {count:,} of its {tensor.numel():,} values are NaN or infinite. A training that diverged ends so.",
        "Take a checkpoint of before that.",
        code=NOT_UNDERSTOOD,
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(value: Any) -> bool:
    return _count(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(_count, value)))


def _channels(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_number, value))


def _heads(value: Any) -> bool:
    return _count(value) or (isinstance(value, tuple) and len(value) > 0 and all(map(_count, value)))


_RIGHT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mean": (_channels, "a finite number for every channel"),
    "std": (lambda v: _channels(v) and min(v) > 0, "a finite number above 0 for every channel"),
    "heads": (_heads, "a whole number above 0"),
    "head_width": (_count, "a whole number above 0"),
    "image_size": (_size, "one or two whole numbers above 0"),
    "norm_eps": (lambda v: _number(v) and 0 < v < 1, "a number above 0 and below 1"),
    "rope_temperature": (lambda v: _number(v) and v > 0, "a number above 0"),
}


def check_words(path: Path, contents: Contents) -> None:
    """Raises an FdlabError (code 3) for a word of the file or its folder that cannot be right."""
    for fact, (is_right, wanted) in _RIGHT.items():
        if fact not in contents.said:
            continue
        value, where = contents.said[fact]
        if not is_right(value):
            raise refusal(
                path, f"says what cannot be right: {fact} {_shown(value)}.", f"In {where}. It is {wanted}.", _FIX
            )
    mean, std = contents.value("mean"), contents.value("std")
    if mean is not None and std is not None and len(mean) != len(std):
        why = f"mean has {len(mean)} numbers, std {len(std)}."
        raise refusal(path, "says what cannot be right: mean and std differ in length.", why, _FIX)


_FIX = f"Mend it there, or: {AGAIN[0].lower()}{AGAIN[1:]}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value))[:80] if isinstance(value, tuple) else str(value)[:80]
