"""Sums over the queries of one block's attention, slice by slice, and what follows from them.

Every number of ``attention`` is a function of sums over queries, so that a large map is never needed as a whole: a few
rows of patches at a time stay in a processor's cache. Definitions and notation are those of ``attention``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fdlab.randomness import stream

Patch = int | tuple[int, int]
BY_KIND = ("prefix_mass_cls", "prefix_mass_dist", "prefix_mass_register")

# exp(-1e4) is 0 in every dtype, and 0 * -1e4 is 0 where 0 * -inf is not a number
_MASKED = -1e4


class QuerySums:
    """Sums over the patch queries added so far, of a block whose patches lie on ``grid``: ``sums["distance"]``.

    Args:
        grid: patches (down, across).
        patch_size: pixels of a patch.
        prefix_tokens: tokens before the patches.
        needs: which sums: prefix_mass, distance, entropy, divergence (with entropy), column, shuffled, squares,
            diagonal, offsets, cosine (all that head similarities need).
        renormalise: False: distances are not renormalised over the patches.
        prefix_kinds: of each prefix token; several kinds add ``prefix_mass_KIND`` to ``prefix_mass``.
    """

    def __init__(
        self, grid: tuple[int, int], patch_size: Patch, prefix_tokens: int, needs: set[str], renormalise: bool,
        prefix_kinds: Sequence[str],
    ) -> None:  # fmt: skip
        self.grid, self.patch_size, self.prefix = grid, patch_size, prefix_tokens
        self.needs, self.renormalise, self.kinds = needs, renormalise, prefix_kinds
        self.patches = grid[0] * grid[1]
        self.sums: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.sums[name]

    def _put(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def add(self, logits: Tensor, first: int = 0) -> None:
        """(B, heads, n, T) logits of the patch queries ``first`` to ``first + n - 1``: whole rows of the grid."""
        needs = self.needs
        rows = _softmax_rows(logits[..., self.prefix :])
        prefix = logits[..., : self.prefix]
        if "prefix_mass" in needs:
            self._put(prefix_mass=torch.sigmoid(log_mass(prefix) - rows.log_mass).sum(-1))
            kinds = mass_by_kind(prefix, rows.log_mass, self.kinds)
            self._put(**{name: value * logits.shape[-2] for name, value in kinds.items()})
        if "entropy" in needs:
            self._information(rows)
        centred = rows.centred()
        if "distance" in needs:
            share = None if self.renormalise else torch.sigmoid(rows.log_mass - log_mass(prefix))
            self._put(distance=self._distance(centred, first, share))
        if "column" in needs:
            self._put(column=centred.sum(-2))
        if "shuffled" in needs:
            self._put(shuffled=shuffled_sum(centred, first))
        if "squares" in needs:
            self._put(squares=(centred * centred).sum((-2, -1)))
        if "diagonal" in needs:
            self._put(diagonal=centred.diagonal(offset=first, dim1=-2, dim2=-1).sum(-1))
        if "offsets" in needs:
            self._put(offsets=offset_sums(centred, self.grid, first // self.grid[1]))
        if "cosine" in needs:
            self._similarity(centred)

    def _distance(self, centred: Tensor, first: int, share: Tensor | None) -> Tensor:
        distances = _distances(self.grid, *pair_of(self.patch_size), centred.dtype, centred.device)
        distances = distances[first : first + centred.shape[-2]]
        per_query = torch.einsum("bhij,ij->bhi", centred, distances) + distances.mean(-1)
        return (per_query if share is None else per_query * share).sum(-1)

    def _information(self, rows: _Rows) -> None:
        """Entropies in nats of the queries, and their divergences between heads."""
        log_total = rows.total.log()
        if "divergence" in self.needs:
            cross = _head_products(rows.weight, rows.shifted) / rows.total.transpose(1, 2)[..., None]
            cross = cross - log_total.transpose(1, 2)[:, :, None, :]  # (B, n, a, b): sum_j y^a ln y^b
            per_query = -cross.diagonal(dim1=-2, dim2=-1).transpose(1, 2)
            own = cross.diagonal(dim1=-2, dim2=-1)[..., None]
            self._put(divergence=(own - cross).sum((-3, -2, -1)))  # a = b adds exact zeros
            if rows.masked is not None:  # keys that a looks at and b cannot: the divergence is infinite
                outside = _head_products(rows.weight, rows.masked).amax((1, 2, 3)) > 0
                self._put(infinite=outside.to(cross.dtype))
        else:
            per_query = log_total - rows.products().sum(-1) / rows.total
        self._put(entropy=per_query.sum(-1))

    def _similarity(self, centred: Tensor) -> None:
        """<y^a, y^b> = <y^a - 1/N, y^b - 1/N> + 1/N: one Gram matrix a query for the plain and the centred cosine."""
        heads, patches = centred.shape[1], centred.shape[-1]
        first, second = torch.triu_indices(heads, heads, 1, device=centred.device)
        gram = _head_products(centred, centred)
        squares = gram.diagonal(dim1=-2, dim2=-1)  # (B, n, heads)
        products = gram[..., first, second]
        uniform = squares <= rounding(centred, patches)
        usable = ~(uniform[..., first] | uniform[..., second])
        norms = torch.where(uniform, 1.0, squares).sqrt()
        cosines = products / (norms[..., first] * norms[..., second])
        plain_norms = (squares + 1 / patches).sqrt()
        plain = (products + 1 / patches) / (plain_norms[..., first] * plain_norms[..., second])
        shuffled = shuffled_cosine(plain_norms[..., first], plain_norms[..., second], patches)
        self._put(cosine=plain.sum((-2, -1)), cosine_shuffled=shuffled.sum((-2, -1)))
        self.sums["pairs"] = plain.new_tensor(float(len(first)))
        self._put(cosine_centred=torch.where(usable, cosines, 0.0).sum((-2, -1)), usable=usable.sum((-2, -1)))


@dataclass(frozen=True)
class _Rows:
    """Some patch queries of one block, each tensor (B, heads, n, N) or (B, heads, n).

    A map is many times larger than a processor's cache, so each pass over it counts: the two methods write their
    result into a tensor that is not needed any more, unless gradients are wanted. ``products`` is called before
    ``centred``, and nothing after it.
    """

    shifted: Tensor  # logits minus their row's maximum, masked ones at -1e4
    weight: Tensor  # exp(shifted), not normalised
    total: Tensor  # its row sums
    log_mass: Tensor  # logarithm of the row sum of exp(logits)
    masked: Tensor | None  # 1 where a key is masked by -inf; None where no key is

    def products(self) -> Tensor:
        """weight * shifted; ``shifted`` is used up."""
        return self.weight * self.shifted if self.weight.requires_grad else self.shifted.mul_(self.weight)

    def centred(self) -> Tensor:
        """y - 1/N; ``weight`` is used up."""
        # the same rounding on both sides: an exactly uniform row gives exact zeros
        uniform = self.total.new_tensor(float(self.weight.shape[-1])).reciprocal()
        scale = self.total.reciprocal()[..., None]
        if self.weight.requires_grad:
            return self.weight * scale - uniform
        return self.weight.mul_(scale).sub_(uniform)


def _softmax_rows(logits: Tensor) -> _Rows:
    values = logits.detach()
    low, high = values.amin(dim=-1), values.amax(dim=-1)  # aminmax is 20 times slower on a processor
    shifted = logits - high[..., None]
    masked = None
    if not bool(torch.isfinite(low).all()):
        masked = (logits == -math.inf).to(logits.dtype)
        shifted = shifted.clamp(min=_MASKED)
    weight = shifted.exp()
    total = weight.sum(-1)
    mass = torch.where(high == -math.inf, high, high + total.log())  # a row wholly on the prefix: -inf
    return _Rows(shifted, weight, total, mass, masked)


def offset_sums(maps: Tensor, grid: tuple[int, int], first_row: int = 0) -> Tensor:
    """Sums of maps (..., n, N) over pairs of equal offset, (..., 2Gh-1, 2Gw-1).

    The n queries are whole rows of the grid, from ``first_row`` on. Two sweeps of shifted additions, over the queries'
    columns and then over their rows: vectorised steps in place of a scatter with n N indices.
    """
    down, across = grid
    lead, some = maps.shape[:-2], maps.shape[-2] // across
    cells = maps.reshape(*lead, some, across, down, across)
    by_column = maps.new_zeros(*lead, some, down, 2 * across - 1)
    for c in range(across):
        by_column[..., across - 1 - c : 2 * across - 1 - c] += cells[..., :, c, :, :]
    sums = maps.new_zeros(*lead, 2 * down - 1, 2 * across - 1)
    for place in range(some):
        r = first_row + place
        sums[..., down - 1 - r : 2 * down - 1 - r, :] += by_column[..., place, :, :]
    return sums


def offset_counts(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(2Gh-1, 2Gw-1): in how many pairs of patches each offset occurs."""
    rows, columns = (side - torch.arange(1 - side, side, device=device).abs() for side in grid)
    return rows[:, None] * columns


def _head_products(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, heads, heads): <a of head h, b of head g> over keys, for every query."""
    if a.is_cuda:
        return torch.einsum("bhij,bgij->bihg", a, b)
    # one image at a time: a batch would have to be copied before the product
    return torch.stack([x.transpose(0, 1) @ y.permute(1, 2, 0) for x, y in zip(a, b, strict=True)])


def rounding(like: Tensor, patches: int) -> float:
    """Largest sum over N keys of (y - 1/N)^2 that is rounding alone, in the dtype of ``like``."""
    return (8 * torch.finfo(like.dtype).eps) ** 2 / patches


@lru_cache(maxsize=8)
def _distances(grid: tuple[int, int], height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N, N) distances between patch centres in pixels."""
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        r = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1]) * height
        c = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0]) * width
        return torch.hypot(r[:, None] - r, c[:, None] - c).to(device, dtype)


def pair_of(patch_size: Patch) -> tuple[int, int]:
    """(height, width) of a patch in pixels."""
    return (patch_size, patch_size) if isinstance(patch_size, int) else (patch_size[0], patch_size[1])


# --- prefix tokens -----------------------------------------------------------------------------------


def log_mass(logits: Tensor) -> Tensor:
    """logsumexp over keys; -inf where there are none."""
    if logits.shape[-1] == 0:
        return logits.new_full(logits.shape[:-1], -math.inf)
    return logits.logsumexp(-1)


def mass_by_kind(prefix: Tensor, log_patches: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """``prefix_mass_KIND`` for every kind, (B, heads) each; they add up to ``prefix_mass``.

    A token's share is exp(its logit - log of the row's whole sum), so that shares near 0 and near 1 keep their digits.

    Args:
        prefix: (B, heads, N, P) logits of the prefix keys.
        log_patches: (B, heads, N) log mass of the patch keys.
        kinds: the kind of each of the P tokens, in order. With fewer than two different ones ``prefix_mass`` says
            everything, and nothing is returned.
    """
    names = list(dict.fromkeys(kinds))
    if len(names) < 2 or len(kinds) != prefix.shape[-1]:
        return {}
    shares = (prefix - torch.logaddexp(log_mass(prefix), log_patches)[..., None]).exp().mean(-2)
    tokens = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    return {f"prefix_mass_{name}": shares[..., chosen].sum(-1) for name, chosen in tokens.items()}


# --- the shuffled control ----------------------------------------------------------------------------
# What the numbers of a map are worth when its sharpness is all that is left: the keys of every query are permuted, each
# query's by its own permutation. Each row keeps its values, and with them its entropy, but no longer says which key
# they belong to. A metric far from its shuffled value tells of where the queries look; one close to it, of how sharp
# the rows are.


@lru_cache(maxsize=4)
def shuffled_keys(patches: int, device: torch.device) -> Tensor:
    """(N, N) int64: row i is the order in which query i reads its keys; the same in every run and model."""
    draw = stream(0, "shuffled keys", patches)
    order = draw.permuted(torch.arange(patches).expand(patches, patches).numpy(), axis=1)
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        return torch.from_numpy(order).to(device)


def shuffled_sum(maps: Tensor, first: int = 0) -> Tensor:
    """(..., N): the sum over queries ``first`` to ``first + n - 1`` of their shuffled rows (..., n, N).

    One draw for all heads and images: the column mean of N shuffled rows hardly depends on the draw.
    """
    count, patches = maps.shape[-2:]
    order = shuffled_keys(patches, maps.device)[first : first + count]
    flat = order + torch.arange(count, device=maps.device)[:, None] * patches
    rows = maps.flatten(-2)
    return rows.gather(-1, flat.flatten().expand(rows.shape)).unflatten(-1, order.shape).sum(-2)


def shuffled_cosine(first_norm: Tensor, second_norm: Tensor, patches: int) -> Tensor:
    """Mean cosine of two rows over all permutations of either: 1 / (N |y^a| |y^b|), exact, without a draw.

    Under a random permutation every y^a_j meets the mean of y^b, which is 1/N, and a row sums to 1. The
    centred form's mean is 0.
    """
    return 1 / (patches * first_norm * second_norm)
