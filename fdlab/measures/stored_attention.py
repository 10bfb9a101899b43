"""One block's attention in few bytes, so that a browser can draw the row of every query; the errors are bounded.

Attention logits of a head are a product of queries and keys, so that they have a low rank: L = A B', with d columns.
``A = U sqrt(S)`` and ``B = V sqrt(S)`` of the row-centred L (softmax does not see a row's mean) are divided by one step
and rounded. The step is the largest with which the drawn maps and their numbers stay within ``Limits``; it is found by
bisection. A bias of relative position is no product: it is kept beside, once for all images. What has no low rank, or
fewer tokens than would pay for it (windows), is stored as 8-bit logarithms of the maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.measures.attention import attention_metrics

NATS = 12.0  # span of stored logarithms: exp(-12) of a row's maximum is drawn as nothing
NOTHING = 255  # the byte of what lies below it, and of masked keys
NUMBERS = ("distance", "entropy", "nmi", "prefix_mass")
_FINEST, _COARSEST, _TURNS = 1e-5, 2.0, 9  # steps that are tried
_LOW_RANK = 1e-4  # largest relative residual of a head that counts as a product


@dataclass(frozen=True)
class Limits:
    """Largest errors of what is drawn.

    Args:
        map_99: 99 % of |difference| / row maximum, over all patches of all rows.
        map_most: the largest of them.
        distance: relative, of a head's mean distance.
        entropy: absolute, of a head's entropy / ln N.
    """

    map_99: float = 0.02
    map_most: float = 0.10
    distance: float = 0.002
    entropy: float = 0.002


EXACT = Limits(0.01, 0.05, 0.001, 0.001)


@dataclass(frozen=True)
class StoredBlock:
    """One block of one image.

    Args:
        kind: ``factors`` or ``logs``.
        data: all heads one after the other: A then B by columns (int8; wide ones int16, low bytes, then high bytes), or
            the bytes of the maps (windows, heads, T, N).
        heads: of each head ``rank``, ``wide`` and ``step``; empty for logs.
        numbers: {name: one a head}, fdlab's own of this image (mean over windows); NaN is None.
        errors: the largest over heads of ``map_99``, ``map_most``, ``distance`` and ``entropy``.
    """

    kind: str
    data: bytes
    heads: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[str, list[float | None]] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def store_block(
    logits: Tensor,
    *,
    grid: tuple[int, int],
    patch: tuple[int, int],
    rank: int,
    bias: Tensor | None = None,
    limits: Limits | None = None,
) -> StoredBlock:
    """The block in as few bytes as keep what is drawn within the limits.

    Args:
        logits: (windows, heads, T, T) as the softmax sees them, prefix tokens first; -inf where a key is masked.
        grid: patches of a window (down, across).
        patch: (height, width) of a patch in pixels.
        rank: numbers of a head's query; the rank of its logits without the bias.
        bias: (heads, T, T) that was added, as the reader has it.
        limits: ``Limits()`` by default.

    Returns:
        ``factors`` where the logits are a product and this is smaller, else ``logs``.
    """
    bounds = limits or Limits()
    prefix = logits.shape[-1] - grid[0] * grid[1]
    numbers = _numbers(logits, grid, patch, prefix)
    if len(logits) == 1 and logits.shape[-1] > 2 * rank and bool(torch.isfinite(logits).all()):
        rest = logits[0] if bias is None else logits[0] - bias.to(logits)
        factors = _factors(rest, rank)
        if factors is not None:
            found = _rounded(logits[0], factors, bias, grid, patch, prefix, bounds)
            if found is not None:
                return StoredBlock("factors", found[0], found[1], numbers, found[2])
    return _logs(logits, grid, patch, prefix, numbers)


def _numbers(
    logits: Tensor, grid: tuple[int, int], patch: tuple[int, int], prefix: int
) -> dict[str, list[float | None]]:
    found = attention_metrics(logits.softmax(-1), grid=grid, patch_size=patch, prefix_tokens=prefix, metrics=NUMBERS)
    means = {name: value.double().mean(0).tolist() for name, value in found.items()}
    return {name: [None if math.isnan(one) else one for one in values] for name, values in means.items()}


# --- factors -------------------------------------------------------------------------------------------------


def _factors(logits: Tensor, rank: int) -> tuple[Tensor, Tensor] | None:
    """(heads, T, rank) A and B with A B' = the row-centred logits, or None where the rank is higher."""
    centred = logits - logits.mean(-1, keepdim=True)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(logits.shape[-1], rank + 8, generator=generator).to(centred)
    basis = torch.linalg.qr(centred @ probe)[0]  # holds the range of every matrix of this rank
    small = basis.mT @ centred
    residual = torch.linalg.matrix_norm(centred - basis @ small)
    if bool((residual > _LOW_RANK * torch.linalg.matrix_norm(centred).clamp(min=1e-6)).any()):
        return None
    left, values, right = torch.linalg.svd(small, full_matrices=False)
    roots = values[:, :rank].sqrt()
    return (basis @ left[..., :rank]) * roots[:, None], right[:, :rank].mT * roots[:, None]


def _rounded(
    logits: Tensor, factors: tuple[Tensor, Tensor], bias: Tensor | None, grid: tuple[int, int],
    patch: tuple[int, int], prefix: int, limits: Limits,
) -> tuple[bytes, list[dict[str, Any]], dict[str, float]] | None:  # fmt: skip
    """Integers with the largest steps that keep the limits; None where even the finest do not."""
    drawn = _Drawn(logits, grid, patch, prefix)
    added = 0.0 if bias is None else bias.to(logits)
    heads = len(logits)
    low, high = torch.full((heads,), math.log10(_FINEST)), torch.full((heads,), math.log10(_COARSEST))
    errors = drawn.errors(_product(factors, 10**low) + added)
    if not bool(_kept(errors, limits).all()):
        return None
    for _ in range(_TURNS):
        middle = (low + high) / 2
        tried = drawn.errors(_product(factors, 10**middle) + added)
        good = _kept(tried, limits)
        errors = {name: torch.where(good, tried[name], errors[name]) for name in errors}
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    steps = 10**low
    parts, told = [], []
    for head in range(heads):
        pair = [torch.round(factor[head] / steps[head]).cpu().numpy() for factor in factors]
        used = 1 + max(int(np.flatnonzero(part.any(0)).max(initial=0)) for part in pair)
        whole = np.concatenate([part[:, :used].T.ravel() for part in pair])
        wide = bool(abs(whole).max(initial=0) > 127)
        parts.append(_bytes(whole, wide))
        told.append({"rank": used, "wide": wide, "step": float(steps[head])})
    return b"".join(parts), told, {name: float(value.max()) for name, value in errors.items()}


def _bytes(values: np.ndarray, wide: bool) -> bytes:
    if not wide:
        return values.astype(np.int8).tobytes()
    pairs = values.astype("<i2").view(np.uint8).reshape(-1, 2)
    return pairs[:, 0].tobytes() + pairs[:, 1].tobytes()


def _product(factors: tuple[Tensor, Tensor], steps: Tensor) -> Tensor:
    first, second = (torch.round(factor / steps.to(factor)[:, None, None]) for factor in factors)
    return (first @ second.mT) * steps.to(first)[:, None, None] ** 2


def _kept(errors: dict[str, Tensor], limits: Limits) -> Tensor:
    """(heads,): whether all four errors of a head are within the limits."""
    return torch.stack([errors[name] <= getattr(limits, name) for name in errors]).all(0)


class _Drawn:
    """What is drawn of exact logits (heads, T, T), and how far that of others is from it."""

    def __init__(self, logits: Tensor, grid: tuple[int, int], patch: tuple[int, int], prefix: int) -> None:
        self.prefix, self.patches = prefix, grid[0] * grid[1]
        rows = torch.arange(grid[0]).repeat_interleave(grid[1]) * float(patch[0])
        columns = torch.arange(grid[1]).repeat(grid[0]) * float(patch[1])
        self.distances = torch.hypot(rows[:, None] - rows, columns[:, None] - columns).to(logits)
        self.maps = logits[..., prefix:].softmax(-1)
        self.most = self.maps.amax(-1, keepdim=True)
        self.distance, self.entropy = self._numbers(self.maps)

    def _numbers(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        maps = maps[:, self.prefix :]
        logs = torch.special.entr(maps).sum(-1).mean(-1) / math.log(max(self.patches, 2))
        return torch.einsum("hij,ij->h", maps, self.distances) / self.patches, logs

    def errors(self, logits: Tensor) -> dict[str, Tensor]:
        """Each (heads,)."""
        maps = logits[..., self.prefix :].softmax(-1)
        off = ((maps - self.maps).abs() / self.most).flatten(1)
        count = max(1, round(0.01 * off.shape[1]))
        distance, entropy = self._numbers(maps)
        return {
            "map_99": off.topk(count, dim=1).values[:, -1],
            "map_most": off.amax(1),
            "distance": (distance - self.distance).abs() / self.distance.clamp(min=1e-9),
            "entropy": (entropy - self.entropy).abs(),
        }


# --- logarithms ---------------------------------------------------------------------------------------------------


def _logs(
    logits: Tensor, grid: tuple[int, int], patch: tuple[int, int], prefix: int, numbers: dict[str, list[float | None]]
) -> StoredBlock:
    patches = logits[..., prefix:]
    below = patches.amax(-1, keepdim=True).clamp(min=-1e30) - patches
    codes = (below / NATS * (NOTHING - 1)).round().clamp(0, NOTHING)
    codes[~(below <= NATS)] = NOTHING
    back = torch.where(codes == NOTHING, -math.inf, -codes * NATS / (NOTHING - 1))
    worst: dict[str, float] = {}
    for window, exact in zip(back, logits, strict=True):
        whole = torch.cat([exact[..., :prefix], window], -1)
        found = _Drawn(exact, grid, patch, prefix).errors(whole)
        worst = {name: max(worst.get(name, 0.0), float(value.max())) for name, value in found.items()}
    return StoredBlock("logs", codes.to(torch.uint8).cpu().numpy().tobytes(), [], numbers, worst)


# --- the bias -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredBias:
    """A bias of relative position: by offset between patches, and whole for what joins prefix tokens.

    Args:
        data: int16, low bytes then high bytes: (heads, 2 Gh - 1, 2 Gw - 1) by key minus query, then the rows of the
            prefix queries (heads, P, T), then the columns of the prefix keys (heads, N, P).
        steps: of each head.
        bias: (heads, T, T) as it is read back.
    """

    data: bytes
    steps: list[float]
    bias: Tensor


def store_bias(bias: Tensor, grid: tuple[int, int]) -> StoredBias | None:
    """(heads, T, T) in few bytes; None where it is not a function of the offset between patches."""
    down, across = grid
    prefix = bias.shape[-1] - down * across
    bias = bias.double().cpu()
    r, c = torch.arange(down).repeat_interleave(across), torch.arange(across).repeat(down)
    place = (r[None] - r[:, None] + down - 1) * (2 * across - 1) + (c[None] - c[:, None] + across - 1)
    table = bias.new_zeros(len(bias), (2 * down - 1) * (2 * across - 1))
    table[:, place.flatten()] = bias[:, prefix:, prefix:].flatten(1)
    if not torch.allclose(table[:, place], bias[:, prefix:, prefix:], atol=1e-5):
        return None
    steps = bias.abs().amax((1, 2)).clamp(min=1e-9) / 32767
    parts = [table, bias[:, :prefix].flatten(1), bias[:, prefix:, :prefix].flatten(1)]
    rounded = [torch.round(part / steps[:, None]) for part in parts]
    whole = torch.zeros_like(bias)
    whole[:, prefix:, prefix:] = rounded[0][:, place]
    whole[:, :prefix] = rounded[1].unflatten(1, (prefix, -1)) if prefix else 0
    if prefix:
        whole[:, prefix:, :prefix] = rounded[2].unflatten(1, (-1, prefix))
    data = _bytes(np.concatenate([part.numpy().ravel() for part in rounded]), wide=True)
    return StoredBias(data, steps.tolist(), whole * steps[:, None, None])
