"""What one block's attention looks like, in numbers: from maps or straight from logits.

Notation for one head: queries i and keys j are the N = Gh * Gw patches (row major); P prefix tokens
(class, distillation, registers) stand before them. Prefix queries are never looked at. y_ij is the
patch attention of query i, renormalised over the patch keys; D_ij the distance in pixels of the
patch centres; p_j = mean_i y_ij. Logarithms are natural.

y is the softmax of the patch logits alone, so it is taken from them and "1 - prefix mass" is never
formed: where a prefix token takes nearly everything, that difference is 0 in float32. All sums are
of y - 1/N, so that nearly uniform maps keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.attention_prefix import log_mass, mass_by_kind
from fdlab.measures.attention_shuffle import shuffled_column_mean, shuffled_cosine

Patch = int | tuple[int, int]

PER_HEAD = (
    "distance",
    "distance_ratio",
    "entropy",
    "nmi",
    "nmi_shuffled",
    "prefix_mass",
    "diagonality",
    "column_concentration",
    "r2_relative",
    "r2_absolute",
)
PER_IMAGE = ("head_similarity", "head_similarity_shuffled", "head_similarity_centred", "head_divergence")
ALL = PER_HEAD + PER_IMAGE

# exp(-1e4) is 0 in every dtype, and 0 * -1e4 is 0 where 0 * -inf is not a number
_MASKED = -1e4


def attention_metrics(
    attention: Tensor,
    *,
    grid: tuple[int, int],
    patch_size: Patch,
    prefix_tokens: int = 0,
    renormalise: bool = True,
    metrics: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """The numbers of one block from its attention maps.

    Args:
        attention: (B, heads, T, T) after softmax, rows are queries, T = prefix_tokens + Gh * Gw.
        grid: patches (down, across).
        patch_size: pixels of a patch, one number or (height, width).
        prefix_tokens: tokens before the patches.
        renormalise: False leaves ``distance`` (and its ratio) unnormalised over the patches, as some
            published plots have it; everything else stays renormalised.
        metrics: names to compute; all by default.

    Returns:
        {name: (B, heads)} for ``PER_HEAD`` and {name: (B,)} for ``PER_IMAGE``, in the dtype of the input
        (half precision is computed in float32). NaN = undefined, e.g. R2 of an exactly uniform map.

    Raises:
        FdlabError: the shape does not fit the grid, or entries are negative.
    """
    maps = _at_least_float32(attention)
    if bool((maps < 0).any()):
        raise FdlabError(
            "These attention maps hold negative entries.",
            "They are no softmax output: logits, or maps mixed over heads.",
            "Pass maps after softmax, or use metrics_from_logits.",
            USAGE,
        )
    return metrics_from_logits(
        maps.log(),
        grid=grid,
        patch_size=patch_size,
        prefix_tokens=prefix_tokens,
        renormalise=renormalise,
        metrics=metrics,
    )


def metrics_from_logits(
    logits: Tensor,
    *,
    grid: tuple[int, int],
    patch_size: Patch,
    prefix_tokens: int = 0,
    renormalise: bool = True,
    metrics: Iterable[str] | None = None,
    prefix_kinds: Sequence[str] = (),
) -> dict[str, Tensor]:
    """The same numbers from attention logits, scaled and masked as the model's softmax sees them.

    Args:
        logits: (B, heads, Tq, T); Tq = T, or Tq = Gh * Gw where prefix queries are left out already.
            A key masked with -inf gets weight 0.
        prefix_kinds: of each prefix token; several kinds add ``prefix_mass_KIND`` (B, heads) to ``prefix_mass``.

    The other arguments, the result and the errors are those of ``attention_metrics``.
    """
    wanted = _checked_names(metrics)
    patches = _patch_rows(_at_least_float32(logits), grid, prefix_tokens)
    rows = _softmax_rows(patches[..., prefix_tokens:])
    found: dict[str, Tensor] = {}
    by_kind: dict[str, Tensor] = {}
    log_patch_mass, log_prefix_mass = rows.log_mass, log_mass(patches[..., :prefix_tokens])
    if "prefix_mass" in wanted:
        found["prefix_mass"] = torch.sigmoid(log_prefix_mass - log_patch_mass).mean(-1)
        by_kind = mass_by_kind(patches[..., :prefix_tokens], log_patch_mass, prefix_kinds)
    if wanted & {"distance", "distance_ratio"}:
        share = None if renormalise else torch.sigmoid(log_patch_mass - log_prefix_mass)
        found["distance"] = mean_distance(rows.centred, grid, patch_size, share)
        found["distance_ratio"] = found["distance"] / (uniform_distance(grid, patch_size) or math.nan)
    if wanted & {"entropy", "nmi", "nmi_shuffled", "head_divergence"}:
        found |= _information(rows, wanted)
    if wanted & {"column_concentration", "r2_relative", "r2_absolute", "diagonality"}:
        found |= _structure(rows.centred, grid, with_offsets="r2_relative" in wanted)
    if wanted & {"head_similarity", "head_similarity_shuffled", "head_similarity_centred"}:
        found |= _similarity(rows.centred)
    return {name: found[name] for name in ALL if name in wanted} | by_kind


# --- the rows: softmax over patch keys -------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Patch rows of one block, each tensor (B, heads, N, N) or (B, heads, N)."""

    shifted: Tensor  # logits minus their row's maximum, masked ones at -1e4
    weight: Tensor  # exp(shifted), not normalised
    total: Tensor  # its row sums
    centred: Tensor  # y - 1/N
    log_mass: Tensor  # logarithm of the row sum of exp(logits)
    masked: Tensor | None  # 1 where a key is masked by -inf; None where no key is


def _softmax_rows(logits: Tensor) -> _Rows:
    low, high = logits.detach().aminmax(dim=-1)
    shifted = logits - high[..., None]
    masked = None
    if not bool(torch.isfinite(low).all()):
        masked = (logits == -math.inf).to(logits.dtype)
        shifted = shifted.clamp(min=_MASKED)
    weight = shifted.exp()
    total = weight.sum(-1)
    # the same rounding on both sides: an exactly uniform row gives exact zeros
    uniform = total.new_tensor(float(logits.shape[-1])).reciprocal()
    centred = weight * total.reciprocal()[..., None] - uniform
    mass = torch.where(high == -math.inf, high, high + total.log())  # a row wholly on the prefix: -inf
    return _Rows(shifted, weight, total, centred, mass, masked)


# --- the numbers -------------------------------------------------------------------------------------


def mean_distance(centred: Tensor, grid: tuple[int, int], patch_size: Patch, share: Tensor | None = None) -> Tensor:
    """Mean attention distance in pixels, (B, heads): (1/N) sum_i sum_j y_ij D_ij.

    Source: Dosovitskiy et al. 2021 (ViT), figure 7; here over patch tokens only. ``share`` (B, heads, N)
    multiplies each query's sum: the patch mass, for the form that is not renormalised.
    """
    distances = _distances(grid, *_pair(patch_size), centred.dtype, centred.device)
    per_query = torch.einsum("bhij,ij->bhi", centred, distances) + distances.mean(-1)
    return (per_query if share is None else per_query * share).mean(-1)


def _information(rows: _Rows, wanted: set[str]) -> dict[str, Tensor]:
    """``entropy``, ``nmi``, ``nmi_shuffled`` and ``head_divergence``.

    entropy = -(1/N) sum_ij y_ij ln y_ij / ln N (Shannon; per head as in Xie et al. 2023). With logits at
    hand, H_i = ln Z_i - sum_j y_ij s_ij needs no logarithm of an element.
    nmi = I / sqrt(H(q) H(k)) with p(q) = 1/N, so I = H(p) - mean_i H_i and H(q) = ln N (Park et al. 2023);
    0 where every query looks at one and the same key (0/0).
    head_divergence = mean over ordered head pairs and queries of sum_j y^a ln(y^a / y^b) (Xie et al. 2023),
    from log-probabilities, without an epsilon; NaN where it is infinite.
    """
    patches = rows.weight.shape[-1]
    found: dict[str, Tensor] = {}
    log_total = rows.total.log()
    if "head_divergence" in wanted:
        cross = _head_products(rows.weight, rows.shifted) / rows.total.transpose(1, 2)[..., None]
        cross = cross - log_total.transpose(1, 2)[:, :, None, :]  # (B, N, a, b): sum_j y^a ln y^b
        per_query = -cross.diagonal(dim1=-2, dim2=-1).transpose(1, 2)
        found["head_divergence"] = _divergence(cross, rows)
    else:
        per_query = log_total - (rows.weight * rows.shifted).sum(-1) / rows.total
    entropy = per_query.mean(-1)
    found["nmi"] = _nmi(rows.centred.mean(-2) + 1 / patches, entropy)
    if "nmi_shuffled" in wanted:
        found["nmi_shuffled"] = _nmi(shuffled_column_mean(rows.centred) + 1 / patches, entropy)
    found["entropy"] = entropy / math.log(patches) if patches > 1 else torch.full_like(entropy, math.nan)
    return found


def _nmi(p: Tensor, entropy: Tensor) -> Tensor:
    """From the key marginal (..., N) and the mean entropy of the rows in nats (...)."""
    patches = p.shape[-1]
    column_entropy = -torch.special.xlogy(p, p).sum(-1)
    nmi = (column_entropy - entropy).clamp(min=0) / (column_entropy.clamp(min=0) * math.log(patches)).sqrt()
    defined = column_entropy > 4 * patches * torch.finfo(p.dtype).eps
    return torch.where(defined | column_entropy.isnan(), nmi, 0.0)


def _divergence(cross: Tensor, rows: _Rows) -> Tensor:
    """Mean over ordered pairs a != b and queries of KL(a || b), (B,), from sum_j y^a ln y^b."""
    heads = cross.shape[-1]
    if heads < 2:
        return cross.new_full(cross.shape[:1], math.nan)
    own = cross.diagonal(dim1=-2, dim2=-1)[..., None]
    value = (own - cross).sum((-2, -1)).mean(-1) / (heads * (heads - 1))  # a = b adds exact zeros
    if rows.masked is None:
        return value
    # keys that a looks at and b cannot: the divergence is infinite
    outside = _head_products(rows.weight, rows.masked).amax((1, 2, 3)) > 0
    return torch.where(outside, math.nan, value)


def _structure(centred: Tensor, grid: tuple[int, int], *, with_offsets: bool) -> dict[str, Tensor]:
    """How much of the map depends on the key alone or on the offset alone; (B, heads) each.

    diagonality = (1/N) sum_i y_ii, the mass on the own token.
    column_concentration = N sum_j p_j^2, from 1 to N (every query on one key).
    r2_absolute = N sum_j (p_j - 1/N)^2 / sum_ij (y_ij - 1/N)^2: share explained by the key's position.
    r2_relative = 1 - sum_ij (y_ij - mean over equal offset)^2 / sum_ij (y_ij - 1/N)^2: share explained by
    the offset j - i in the grid. Chance level (offsets - 1) / (N^2 - 1). Both are one-way analyses of
    variance of the map; NaN for an exactly uniform one.
    """
    patches = centred.shape[-1]
    column = centred.mean(-2)
    squares = column.square().sum(-1)
    spread = (centred * centred).sum((-2, -1))
    spread = torch.where(spread <= patches * _rounding(centred), math.nan, spread)
    found = {
        "diagonality": centred.diagonal(dim1=-2, dim2=-1).mean(-1) + 1 / patches,
        "column_concentration": patches * squares + 1,
        "r2_absolute": patches * squares / spread,
    }
    if with_offsets:
        sums, counts = offset_sums(centred, grid)
        found["r2_relative"] = (sums.square() / counts).sum((-2, -1)) / spread
    return found


def offset_sums(maps: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sums of maps (..., N, N) over pairs of equal offset, (..., 2Gh-1, 2Gw-1), and the number of pairs.

    Two sweeps of shifted additions, over the queries' columns and then over their rows: Gh + Gw
    vectorised steps in place of a scatter with N^2 indices.
    """
    down, across = grid
    lead = maps.shape[:-2]
    cells = maps.reshape(*lead, down, across, down, across)
    by_column = maps.new_zeros(*lead, down, down, 2 * across - 1)
    for c in range(across):
        by_column[..., across - 1 - c : 2 * across - 1 - c] += cells[..., :, c, :, :]
    sums = maps.new_zeros(*lead, 2 * down - 1, 2 * across - 1)
    for r in range(down):
        sums[..., down - 1 - r : 2 * down - 1 - r, :] += by_column[..., r, :, :]
    rows = down - torch.arange(1 - down, down, device=maps.device).abs()
    columns = across - torch.arange(1 - across, across, device=maps.device).abs()
    return sums, rows[:, None] * columns


def _similarity(centred: Tensor) -> dict[str, Tensor]:
    """Mean cosine over head pairs a < b and queries, (B,): plain, and of rows with 1/N subtracted.

    <y^a, y^b> = <y^a - 1/N, y^b - 1/N> + 1/N, so one Gram matrix per query gives both. Rows that are
    exactly uniform have no centred direction; pairs with one are left out. NaN for a single head.
    """
    heads, patches = centred.shape[1], centred.shape[-1]
    first, second = torch.triu_indices(heads, heads, 1, device=centred.device)
    gram = _head_products(centred, centred)
    squares = gram.diagonal(dim1=-2, dim2=-1)  # (B, N, heads)
    products = gram[..., first, second]
    uniform = squares <= _rounding(centred)
    usable = ~(uniform[..., first] | uniform[..., second])
    norms = torch.where(uniform, 1.0, squares).sqrt()
    cosines = products / (norms[..., first] * norms[..., second])
    plain_norms = (squares + 1 / patches).sqrt()
    plain = (products + 1 / patches) / (plain_norms[..., first] * plain_norms[..., second])
    return {
        "head_similarity": plain.mean((-2, -1)),
        "head_similarity_shuffled": shuffled_cosine(plain_norms[..., first], plain_norms[..., second], patches).mean(
            (-2, -1)
        ),
        "head_similarity_centred": torch.where(usable, cosines, 0.0).sum((-2, -1)) / usable.sum((-2, -1)),
    }


def _head_products(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, heads, heads): <a of head h, b of head g> over keys, for every query."""
    if a.is_cuda:
        return torch.einsum("bhij,bgij->bihg", a, b)
    # one image at a time: a batch would have to be copied before the product
    return torch.stack([x.transpose(0, 1) @ y.permute(1, 2, 0) for x, y in zip(a, b, strict=True)])


def _rounding(centred: Tensor) -> float:
    """Largest sum over keys of (y - 1/N)^2 that is rounding alone."""
    return (8 * torch.finfo(centred.dtype).eps) ** 2 / centred.shape[-1]


# --- geometry ----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def uniform_distance(grid: tuple[int, int], patch_size: Patch) -> float:
    """Mean distance in pixels of uniform attention on this grid: the line to draw in every figure.

    (1/N^2) sum over offsets (dr, dc) of (Gh - |dr|)(Gw - |dc|) |(dr ph, dc pw)|; a square's limit is
    0.52141 of its side.
    """
    (down, across), (height, width) = grid, _pair(patch_size)
    total = math.fsum(
        (down - abs(r)) * (across - abs(c)) * math.hypot(r * height, c * width)
        for r in range(1 - down, down)
        for c in range(1 - across, across)
    )
    return total / (down * across) ** 2


@lru_cache(maxsize=8)
def _distances(grid: tuple[int, int], height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N, N) distances between patch centres in pixels."""
    with torch.inference_mode(False):  # kept for later calls, which may want gradients
        r = torch.arange(grid[0], dtype=torch.float64).repeat_interleave(grid[1]) * height
        c = torch.arange(grid[1], dtype=torch.float64).repeat(grid[0]) * width
        return torch.hypot(r[:, None] - r, c[:, None] - c).to(device, dtype)


def _pair(patch_size: Patch) -> tuple[int, int]:
    return (patch_size, patch_size) if isinstance(patch_size, int) else (patch_size[0], patch_size[1])


# --- what goes in ------------------------------------------------------------------------------------


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _patch_rows(logits: Tensor, grid: tuple[int, int], prefix_tokens: int) -> Tensor:
    """(B, heads, N, T): prefix queries dropped, shapes checked."""
    patches = grid[0] * grid[1]
    tokens = prefix_tokens + patches
    if logits.dim() == 4 and logits.shape[-1] == tokens and logits.shape[-2] in (tokens, patches):
        return logits[..., -patches:, :]
    raise FdlabError(
        f"Attention of shape {tuple(logits.shape)} does not fit a grid of {grid[0]} x {grid[1]} patches.",
        f"{prefix_tokens} prefix tokens and {patches} patches make (B, heads, {tokens}, {tokens}).",
        "Pass the grid of the images as they were given to the model, and its number of prefix tokens.",
        USAGE,
    )


def _checked_names(metrics: Iterable[str] | None) -> set[str]:
    wanted = set(ALL if metrics is None else metrics)
    for name in sorted(wanted - set(ALL)):
        raise FdlabError(
            f"No attention metric is called '{name}'.{nearest(name, ALL)}",
            "",
            f"Known: {', '.join(ALL)}.",
            USAGE,
        )
    return wanted
