"""Parts of a batch: what is random is drawn for the whole batch, and each part takes its own slice.

Every part starts from the step's seed and makes the same draws in the same order, so that a batch in one
piece, in micro-batches or on several ranks has the same drop path and the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """Samples ``start`` to ``stop - 1`` of a batch of ``total``."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start


_current: list[Share] = []


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """While this lasts, ``drawn`` and drop path give this share; None: the whole batch."""
    if share is None:
        yield
        return
    _current.append(share)
    try:
        yield
    finally:
        _current.pop()


def drawn(count: int, draw: Callable[[int], Tensor]) -> Tensor:
    """``draw(n)``, n rows, of which this share's ``count`` are returned.

    Several rows a sample (views one after the other) are drawn view by view.
    """
    if not _current:
        return draw(count)
    share = _current[-1]
    views = count // len(share)
    if views * len(share) != count:
        raise ValueError(f"{count} rows do not belong to a share of {len(share)} samples")
    rows = draw(views * share.total)
    return rows.unflatten(0, (views, share.total))[:, share.start : share.stop].flatten(0, 1)


class SharedDropPath(DropPath):
    """timm's stochastic depth with the same draws, made for the whole batch.

    ``ahead`` (rows, 1): factors of the branch that were drawn before (``draw_ahead``), for compiled blocks: drawn
    inside, each block's own rate and each part of a batch would be compiled anew.
    """

    ahead: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.ahead is not None and len(self.ahead) == len(x):
            return x * self.ahead.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        axes = (1,) * (x.ndim - 1)
        kept = drawn(len(x), lambda count: x.new_empty((count, *axes)).bernoulli_(keep))
        if keep > 0 and self.scale_by_keep:
            kept = kept / keep
        return x * kept


def share_drop_path(module: nn.Module) -> None:
    """Replaces every drop path below ``module``; without shares nothing changes."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is DropPath:
                setattr(parent, name, SharedDropPath(child.drop_prob, child.scale_by_keep).train(child.training))


def draw_ahead(module: nn.Module, rows: int) -> None:
    """Every drop path below ``module`` gets its factors for the next pass of ``rows`` rows in training mode."""
    device = next(module.parameters()).device
    for part in module.modules():
        if isinstance(part, SharedDropPath) and part.drop_prob > 0 and part.training:
            keep = 1 - part.drop_prob
            factors = drawn(rows, lambda count, keep=keep: torch.empty(count, 1, device=device).bernoulli_(keep))  # type: ignore[misc]
            part.ahead = factors / keep if part.scale_by_keep and keep > 0 else factors


def equal_shares(total: int, parts: int) -> list[Share | None]:
    """``parts`` shares of ``total`` samples, which they must divide; one part is the whole.

    >>> equal_shares(6, 2)
    [Share(start=0, stop=3, total=6), Share(start=3, stop=6, total=6)]
    """
    if parts == 1:
        return [None]
    size, rest = divmod(total, parts)
    if rest:
        raise ValueError(f"{parts} parts do not divide {total}")
    return [Share(start, start + size, total) for start in range(0, total, size)]
