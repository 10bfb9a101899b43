"""Curves of a score as shares of it, and their areas; of arrays or tensors."""

from __future__ import annotations

from typing import Any


def area(curve: Any, shares: Any) -> Any:
    """(..., points) -> (...): the area under a curve over shares in [0, 1], by trapezoids; array or tensor."""
    return ((shares[1:] - shares[:-1]) * (curve[..., 1:] + curve[..., :-1]) / 2).sum(-1)


def falling(curve: Any) -> Any:
    """A deletion curve as the share of the score that is left: 1 with the whole image, 0 with none of it."""
    return (curve - curve[..., -1:]) / (curve[..., :1] - curve[..., -1:])


def rising(curve: Any) -> Any:
    """An insertion curve as the share of the score that is there: 0 with nothing, 1 with the whole image."""
    return (curve - curve[..., :1]) / (curve[..., -1:] - curve[..., :1])
