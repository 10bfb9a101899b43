"""Maps of the known-answer cases, built from their rules in plain float64."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

import torch
from torch import Tensor


def truth() -> dict[str, Any]:
    """The known answers that ship in the package."""
    return json.loads(resources.files("fdlab.measures").joinpath("attention_truth.json").read_text())


def cells(grid: tuple[int, int]) -> list[tuple[int, int]]:
    return [(r, c) for r in range(grid[0]) for c in range(grid[1])]


def from_rule(grid: tuple[int, int], weight: Any) -> Tensor:
    """(N, N) with rows normalised; ``weight((r, c), (s, d))``."""
    places = cells(grid)
    rows = torch.tensor([[float(weight(q, k)) for k in places] for q in places], dtype=torch.float64)
    return rows / rows.sum(-1, keepdim=True)


def gauss(sigma: float, grid: tuple[int, int] = (4, 4)) -> Tensor:
    return from_rule(grid, lambda q, k: math.exp(-((q[0] - k[0]) ** 2 + (q[1] - k[1]) ** 2) / (2 * sigma * sigma)))


def mod11(tokens: int, head: int) -> Tensor:
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)
    maps = (1 + (7 * i + 13 * j + 5 * head) % 11).double()
    return maps / maps.sum(-1, keepdim=True)


def with_prefix(patches: Tensor, mass: float) -> Tensor:
    """One prefix token that takes ``mass`` of every patch row; its own row is uniform."""
    n = len(patches)
    maps = torch.full((n + 1, n + 1), 1 / (n + 1), dtype=torch.float64)
    maps[1:, 0], maps[1:, 1:] = mass, (1 - mass) * patches
    return maps


G = (4, 4)


def _simple() -> dict[str, Tensor]:
    uniform = torch.full((16, 16), 1 / 16, dtype=torch.float64)
    column = torch.zeros(16, 16, dtype=torch.float64)
    column[:, 5] = 1
    return {
        "uniform": uniform,
        "identity": torch.eye(16, dtype=torch.float64),
        "shift_right_wrap": from_rule(G, lambda q, k: k == (q[0], (q[1] + 1) % 4)),
        "shift_right_clamp": from_rule(G, lambda q, k: k == (q[0], min(q[1] + 1, 3))),
        "shift_diag_wrap": from_rule(G, lambda q, k: k == ((q[0] + 1) % 4, (q[1] + 1) % 4)),
        "one_column": column,
        "halves": from_rule(G, lambda q, k: q[1] // 2 == k[1] // 2),
        "windows2x2": from_rule(G, lambda q, k: q[0] // 2 == k[0] // 2 and q[1] // 2 == k[1] // 2),
        "rows": from_rule(G, lambda q, k: q[0] == k[0]),
        "gauss1": gauss(1.0),
        "half_identity_half_uniform": 0.5 * torch.eye(16, dtype=torch.float64) + 0.5 * uniform,
    }


def maps_of(name: str) -> Tensor:
    """(1, heads, T, T) float64 of the case of this name."""
    one = _simple()
    key = name.removesuffix("_4x4_p16")
    if key in one:
        return one[key][None, None]
    heads = {
        "mod11_heads0to2": lambda: [mod11(16, h) for h in range(3)],
        "mod11_prefix1_heads0to1": lambda: [mod11(17, h) for h in range(2)],
        "uniform_prefix1": lambda: [torch.full((17, 17), 1 / 17, dtype=torch.float64)],
        "uniform_prefix5": lambda: [torch.full((21, 21), 1 / 21, dtype=torch.float64)],
        "gauss1_prefix1_mass0.75": lambda: [with_prefix(one["gauss1"], 0.75)],
        "uniform_2x3_p16x8": lambda: [torch.full((6, 6), 1 / 6, dtype=torch.float64)],
        "mod11_2x5_p14": lambda: [mod11(10, 0)],
        "heads_identity_uniform": lambda: [one["identity"], one["uniform"]],
        "heads_identity_shift": lambda: [one["identity"], one["shift_right_wrap"]],
        "heads_equal_gauss": lambda: [one["gauss1"], one["gauss1"]],
        "heads_gauss1_gauss2": lambda: [gauss(1.0), gauss(2.0)],
        "heads_mix_uniform": lambda: [one["half_identity_half_uniform"], one["halves"]],
    }
    return torch.stack(heads[key]())[None]


def by_loops(maps: Tensor, grid: tuple[int, int], patch: int, prefix: int) -> dict[str, Tensor]:
    """The definitions written out for (B, heads, T, T), float64, as slowly and plainly as possible."""
    maps = maps.double()
    batch, heads = maps.shape[:2]
    places, n = cells(grid), grid[0] * grid[1]
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
            put("diagonality", sum(float(y[i, i]) for i in range(n)) / n, b, h)
            put("column_concentration", n * float((p * p).sum()), b, h)
            spread = float(((y - 1 / n) ** 2).sum())
            put("r2_absolute", n * float(((p - 1 / n) ** 2).sum()) / spread, b, h)
            put("r2_relative", 1 - _loop_offset_rest(y, places) / spread, b, h)
        pairs = [(a, c) for a in range(heads) for c in range(heads) if a != c]
        for name, value in {
            "head_similarity": [_cosine(ys[a], ys[c]) for a, c in pairs],
            "head_similarity_centred": [_cosine(ys[a] - 1 / n, ys[c] - 1 / n) for a, c in pairs],
            "head_divergence": [float((ys[a] * (ys[a] / ys[c]).log()).sum(-1).mean()) for a, c in pairs],
        }.items():
            found.setdefault(name, torch.zeros(batch).double())[b] = sum(value) / len(value)
    return found


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())


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
