"""The definitions of the attention metrics written out as plain float64 loops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fdlab.known_answers.attention import cells
from fdlab.measures.attention_sums import shuffled_keys


def by_loops(maps: Tensor, grid: tuple[int, int], patch: int, prefix: int) -> dict[str, Tensor]:
    """The definitions written out for (B, heads, T, T), float64, as slowly and plainly as possible."""
    maps = maps.double()
    batch, heads = maps.shape[:2]
    places, n = cells(grid), grid[0] * grid[1]
    order = shuffled_keys(n, torch.device("cpu"))
    found: dict[str, Tensor] = {}

    def put(name: str, value: float, *at: int) -> None:
        found.setdefault(name, torch.zeros(batch, heads, dtype=torch.float64))[at] = value

    for b in range(batch):
        ys = []
        for h in range(heads):
            patches = maps[b, h, prefix:, prefix:]
            y = patches / patches.sum(-1, keepdim=True)
            ys.append(y)
            put("prefix_mass", float((1 - patches.sum(-1)).mean()), b, h)
            put("distance", _loop_distance(y, places, patch), b, h)
            p = y.mean(0)
            own = float(-(y * y.log()).sum(-1).mean())
            column_entropy = float(-(p * p.log()).sum())
            put("entropy", own / math.log(n), b, h)
            put("nmi", (column_entropy - own) / math.sqrt(math.log(n) * column_entropy), b, h)
            mixed = torch.stack([row[keys] for row, keys in zip(y, order, strict=True)]).mean(0)
            mixed_entropy = float(-(mixed * mixed.log()).sum())
            put("nmi_shuffled", (mixed_entropy - own) / math.sqrt(math.log(n) * mixed_entropy), b, h)
            put("diagonality", sum(float(y[i, i]) for i in range(n)) / n, b, h)
            put("column_concentration", n * float((p * p).sum()), b, h)
            spread = float(((y - 1 / n) ** 2).sum())
            put("r2_absolute", n * float(((p - 1 / n) ** 2).sum()) / spread, b, h)
            put("r2_relative", 1 - _loop_offset_rest(y, places) / spread, b, h)
        pairs = [(a, c) for a in range(heads) for c in range(heads) if a != c]
        for name, value in {
            "head_similarity": [_cosine(ys[a], ys[c]) for a, c in pairs],
            # against the mean over the shuffled partner, which is flat
            "head_similarity_shuffled": [_overlap(ys[a], torch.full_like(ys[c], 1 / n), ys[c]) for a, c in pairs],
            "head_similarity_centred": [_cosine(ys[a] - 1 / n, ys[c] - 1 / n) for a, c in pairs],
            "head_divergence": [float((ys[a] * (ys[a] / ys[c]).log()).sum(-1).mean()) for a, c in pairs],
        }.items():
            found.setdefault(name, torch.zeros(batch).double())[b] = sum(value) / len(value)
    return found


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())


def _overlap(a: Tensor, mean: Tensor, b: Tensor) -> float:
    """Mean cosine of a with permutations of b, whose mean over permutations is ``mean``."""
    return float(((a * mean).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())


def _loop_distance(y: Tensor, places: list[tuple[int, int]], patch: int) -> float:
    total = 0.0
    for i, q in enumerate(places):
        for j, k in enumerate(places):
            total += float(y[i, j]) * patch * math.dist(q, k)
    return total / len(places)


def _loop_offset_rest(y: Tensor, places: list[tuple[int, int]]) -> float:
    by_offset: dict[tuple[int, int], list[float]] = {}
    for i, q in enumerate(places):
        for j, k in enumerate(places):
            by_offset.setdefault((k[0] - q[0], k[1] - q[1]), []).append(float(y[i, j]))
    return sum(sum((v - sum(vs) / len(vs)) ** 2 for v in vs) for vs in by_offset.values())
