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
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.attention_prefix import BY_KIND
from fdlab.measures.attention_sums import Patch, QuerySums, offset_counts, pair_of, rounding

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
    found = QuerySums(grid, patch_size, prefix_tokens, checked_names(metrics), renormalise, prefix_kinds)
    found.add(_patch_rows(_at_least_float32(logits), grid, prefix_tokens))
    return metrics_from_sums(found)


# --- from the sums -----------------------------------------------------------------------------------


def metrics_from_sums(found: QuerySums) -> dict[str, Tensor]:
    """The numbers of a block all of whose patch queries were added."""
    wanted, sums, patches = found.wanted, found.sums, found.patches
    made = {name: sums[name] / patches for name in ("prefix_mass", *BY_KIND) if name in sums}
    by_kind = {name: made[name] for name in BY_KIND if name in made}
    if "distance" in sums:
        made["distance"] = sums["distance"] / patches
        made["distance_ratio"] = made["distance"] / (uniform_distance(found.grid, found.patch_size) or math.nan)
    if "entropy" in sums:
        made |= _information(sums, patches)
    if "squares" in sums:
        made |= _structure(sums, found.grid)
    if "cosine" in sums:
        made |= _similarity(sums, patches)
    return {name: made[name] for name in ALL if name in wanted} | by_kind


def _information(sums: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    """``entropy``, ``nmi``, ``nmi_shuffled`` and ``head_divergence``.

    entropy = -(1/N) sum_ij y_ij ln y_ij / ln N (Shannon; per head as in Xie et al. 2023). With logits at
    hand, H_i = ln Z_i - sum_j y_ij s_ij needs no logarithm of an element.
    nmi = I / sqrt(H(q) H(k)) with p(q) = 1/N, so I = H(p) - mean_i H_i and H(q) = ln N (Park et al. 2023);
    0 where every query looks at one and the same key (0/0).
    head_divergence = mean over ordered head pairs and queries of sum_j y^a ln(y^a / y^b) (Xie et al. 2023),
    from log-probabilities, without an epsilon; NaN where it is infinite, and for a single head.
    """
    entropy = sums["entropy"] / patches
    found = {"entropy": entropy / math.log(patches) if patches > 1 else torch.full_like(entropy, math.nan)}
    for name, column in (("nmi", "column"), ("nmi_shuffled", "shuffled")):
        if column in sums:
            found[name] = _nmi(sums[column] / patches + 1 / patches, entropy)
    if "divergence" in sums:
        heads = entropy.shape[1]
        value = sums["divergence"] / (patches * heads * (heads - 1) or math.nan)
        found["head_divergence"] = torch.where(sums["infinite"] > 0, math.nan, value) if "infinite" in sums else value
    return found


def _nmi(p: Tensor, entropy: Tensor) -> Tensor:
    """From the key marginal (..., N) and the mean entropy of the rows in nats (...)."""
    patches, p = p.shape[-1], p.clamp(min=0)  # rounding puts a key that nobody can see a little below 0
    column_entropy = -torch.special.xlogy(p, p).sum(-1)
    nmi = (column_entropy - entropy).clamp(min=0) / (column_entropy.clamp(min=0) * math.log(patches)).sqrt()
    defined = column_entropy > 4 * patches * torch.finfo(p.dtype).eps
    return torch.where(defined | column_entropy.isnan(), nmi, 0.0)


def _structure(sums: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """How much of the map depends on the key alone or on the offset alone; (B, heads) each.

    diagonality = (1/N) sum_i y_ii, the mass on the own token.
    column_concentration = N sum_j p_j^2, from 1 to N (every query on one key).
    r2_absolute = N sum_j (p_j - 1/N)^2 / sum_ij (y_ij - 1/N)^2: share explained by the key's position.
    r2_relative = 1 - sum_ij (y_ij - mean over equal offset)^2 / sum_ij (y_ij - 1/N)^2: share explained by
    the offset j - i in the grid. Chance level (offsets - 1) / (N^2 - 1). Both are one-way analyses of
    variance of the map; NaN for an exactly uniform one.
    """
    patches = grid[0] * grid[1]
    squares = (sums["column"] / patches).square().sum(-1)
    spread = sums["squares"]
    spread = torch.where(spread <= patches * rounding(spread, patches), math.nan, spread)
    found = {
        "diagonality": sums["diagonal"] / patches + 1 / patches,
        "column_concentration": patches * squares + 1,
        "r2_absolute": patches * squares / spread,
    }
    if "offsets" in sums:
        counts = offset_counts(grid, spread.device)
        found["r2_relative"] = (sums["offsets"].square() / counts).sum((-2, -1)) / spread
    return found


def _similarity(sums: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    """Mean cosine over head pairs a < b and queries, (B,): plain, and of rows with 1/N subtracted.

    Rows that are exactly uniform have no centred direction; pairs with one are left out. NaN for a single head.
    """
    pairs = sums["pairs"] * patches
    return {
        "head_similarity": sums["cosine"] / pairs,
        "head_similarity_shuffled": sums["cosine_shuffled"] / pairs,
        "head_similarity_centred": sums["cosine_centred"] / sums["usable"],
    }


# --- geometry ----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def uniform_distance(grid: tuple[int, int], patch_size: Patch) -> float:
    """Mean distance in pixels of uniform attention on this grid: the line to draw in every figure.

    (1/N^2) sum over offsets (dr, dc) of (Gh - |dr|)(Gw - |dc|) |(dr ph, dc pw)|; a square's limit is
    0.52141 of its side.
    """
    (down, across), (height, width) = grid, pair_of(patch_size)
    total = math.fsum(
        (down - abs(r)) * (across - abs(c)) * math.hypot(r * height, c * width)
        for r in range(1 - down, down)
        for c in range(1 - across, across)
    )
    return total / (down * across) ** 2


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


def checked_names(metrics: Iterable[str] | None) -> set[str]:
    """The metrics asked for; raises an FdlabError (code 2) for a name that is not in ``ALL``."""
    wanted = set(ALL if metrics is None else metrics)
    for name in sorted(wanted - set(ALL)):
        raise FdlabError(
            f"No attention metric is called '{name}'.{nearest(name, ALL)}",
            "",
            f"Known: {', '.join(ALL)}.",
            USAGE,
        )
    return wanted
