"""The metrics of one block's attention, from maps or straight from logits; ``DEFINITIONS`` defines each of them.

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
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.attention_sums import BY_KIND, Patch, QuerySums, offset_counts, pair_of, rounding


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

    >>> uniform = torch.full((1, 2, 4, 4), 0.25)
    >>> values = attention_metrics(uniform, grid=(2, 2), patch_size=16)
    >>> round(float(values["entropy"][0, 0]), 6), round(float(values["distance_ratio"][0, 0]), 6)
    (1.0, 1.0)
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
    wanted = checked_names(metrics)
    sums = QuerySums(grid, patch_size, prefix_tokens, sums_for(wanted), renormalise, prefix_kinds)
    sums.add(_patch_rows(_at_least_float32(logits), grid, prefix_tokens))
    return metrics_from_sums(sums, wanted)


def metrics_from_sums(sums: QuerySums, wanted: Collection[str]) -> dict[str, Tensor]:
    """The metrics ``wanted`` of a block all of whose patch queries were added, and ``prefix_mass_KIND`` where known."""
    metrics = {name: DEFINITIONS[name].value(sums) for name in ALL if name in wanted}
    return metrics | {name: sums[name] / sums.patches for name in BY_KIND if name in sums.sums}


def sums_for(metrics: Iterable[str]) -> set[str]:
    """The names of the sums over queries (``QuerySums``) that these metrics are made from."""
    return {name for metric in metrics for name in DEFINITIONS[metric].needs}


# --- from sums to metrics ----------------------------------------------------------------------------


def _distance_ratio(sums: QuerySums) -> Tensor:
    return sums["distance"] / sums.patches / (uniform_distance(sums.grid, sums.patch_size) or math.nan)


def _entropy(sums: QuerySums) -> Tensor:
    """-(1/N) sum_ij y_ij ln y_ij / ln N (Shannon; per head as in Xie et al. 2023).

    With logits at hand, H_i = ln Z_i - sum_j y_ij s_ij needs no logarithm of an element. NaN for a single patch.
    """
    entropy = sums["entropy"] / sums.patches
    return entropy / math.log(sums.patches) if sums.patches > 1 else torch.full_like(entropy, math.nan)


def _nmi(sums: QuerySums, column: str = "column") -> Tensor:
    """I / sqrt(H(q) H(k)) with p(q) = 1/N, so I = H(p) - mean_i H_i and H(q) = ln N (Park et al. 2023).

    0 where every query looks at one and the same key (0/0).
    """
    patches = sums.patches
    p = (sums[column] / patches + 1 / patches).clamp(min=0)  # rounding puts a key that nobody can see a little below 0
    column_entropy = -torch.special.xlogy(p, p).sum(-1)
    information = (column_entropy - sums["entropy"] / patches).clamp(min=0)
    nmi = information / (column_entropy.clamp(min=0) * math.log(patches)).sqrt()
    defined = column_entropy > 4 * patches * torch.finfo(p.dtype).eps
    return torch.where(defined | column_entropy.isnan(), nmi, 0.0)


def _head_divergence(sums: QuerySums) -> Tensor:
    """Mean over ordered head pairs and queries of sum_j y^a ln(y^a / y^b) (Xie et al. 2023), without an epsilon.

    From log-probabilities. NaN where it is infinite, and for a single head.
    """
    heads = sums["entropy"].shape[1]
    value = sums["divergence"] / (sums.patches * heads * (heads - 1) or math.nan)
    return torch.where(sums["infinite"] > 0, math.nan, value) if "infinite" in sums.sums else value


def _diagonality(sums: QuerySums) -> Tensor:
    """(1/N) sum_i y_ii, the mass on the query's own token."""
    return sums["diagonal"] / sums.patches + 1 / sums.patches


def _column_concentration(sums: QuerySums) -> Tensor:
    """N sum_j p_j^2, from 1 to N (every query on one key)."""
    return sums.patches * _column_squares(sums) + 1


def _r2_absolute(sums: QuerySums) -> Tensor:
    """N sum_j (p_j - 1/N)^2 / sum_ij (y_ij - 1/N)^2: the share of the map explained by the key's position.

    Like ``r2_relative`` a one-way analysis of variance of the map; NaN for an exactly uniform one.
    """
    return sums.patches * _column_squares(sums) / _spread(sums)


def _r2_relative(sums: QuerySums) -> Tensor:
    """1 - sum_ij (y_ij - mean over equal offset)^2 / sum_ij (y_ij - 1/N)^2: the share explained by the offset j - i.

    Chance level (offsets - 1) / (N^2 - 1).
    """
    spread = _spread(sums)
    return (sums["offsets"].square() / offset_counts(sums.grid, spread.device)).sum((-2, -1)) / spread


def _column_squares(sums: QuerySums) -> Tensor:
    return (sums["column"] / sums.patches).square().sum(-1)


def _spread(sums: QuerySums) -> Tensor:
    """sum_ij (y_ij - 1/N)^2; NaN where it is rounding alone."""
    spread = sums["squares"]
    return torch.where(spread <= sums.patches * rounding(spread, sums.patches), math.nan, spread)


def _mean_cosine(sums: QuerySums, kind: str) -> Tensor:
    """Mean cosine over head pairs a < b and queries, (B,). NaN for a single head."""
    return sums[kind] / (sums["pairs"] * sums.patches)


def _centred_cosine(sums: QuerySums) -> Tensor:
    """Mean cosine of rows with 1/N subtracted, without pairs of which a row is exactly uniform: it has no direction."""
    return sums["cosine_centred"] / sums["usable"]


class Definition(NamedTuple):
    """A metric of a block: its value from the sums over the queries, and the names of the sums that it needs."""

    value: Callable[[QuerySums], Tensor]
    needs: tuple[str, ...]


DEFINITIONS: dict[str, Definition] = {
    "distance": Definition(lambda sums: sums["distance"] / sums.patches, ("distance",)),
    "distance_ratio": Definition(_distance_ratio, ("distance",)),
    "entropy": Definition(_entropy, ("entropy",)),
    "nmi": Definition(_nmi, ("entropy", "column")),
    "nmi_shuffled": Definition(partial(_nmi, column="shuffled"), ("entropy", "shuffled")),
    "prefix_mass": Definition(lambda sums: sums["prefix_mass"] / sums.patches, ("prefix_mass",)),
    "diagonality": Definition(_diagonality, ("diagonal",)),
    "column_concentration": Definition(_column_concentration, ("column",)),
    "r2_relative": Definition(_r2_relative, ("squares", "offsets")),
    "r2_absolute": Definition(_r2_absolute, ("squares", "column")),
    "head_similarity": Definition(partial(_mean_cosine, kind="cosine"), ("cosine",)),
    "head_similarity_shuffled": Definition(partial(_mean_cosine, kind="cosine_shuffled"), ("cosine",)),
    "head_similarity_centred": Definition(_centred_cosine, ("cosine",)),
    "head_divergence": Definition(_head_divergence, ("entropy", "divergence")),
}
PER_IMAGE = tuple(name for name in DEFINITIONS if name.startswith("head_"))
PER_HEAD = tuple(name for name in DEFINITIONS if name not in PER_IMAGE)
ALL = tuple(DEFINITIONS)


# --- geometry ----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def uniform_distance(grid: tuple[int, int], patch_size: Patch) -> float:
    """Mean distance in pixels of uniform attention on this grid: the line to draw in every figure.

    (1/N^2) sum over offsets (dr, dc) of (Gh - |dr|)(Gw - |dc|) |(dr ph, dc pw)|; a square's limit is
    0.52141 of its side.

    >>> uniform_distance((1, 2), 16)  # half of the pairs are one patch, the others lie 16 pixels apart
    8.0
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
            f"No attention metric is called '{name}'.{nearest(name, ALL)}", fix=f"Known: {', '.join(ALL)}.", code=USAGE
        )
    return wanted
