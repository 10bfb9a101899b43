"""The known answers of attention_truth.json, each map built from its rule: the tests and the doctor run them."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from fdlab.known_answers.check import Check
from fdlab.measures.attention import attention_metrics, uniform_distance

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}
# this package's name -> the file's
HEAD_NAMES = {
    "distance": "distance_px",
    "entropy": "entropy_over_lnN",
    "nmi": "nmi",
    "prefix_mass": "prefix_mass",
    "diagonality": "diagonal_mean",
    "column_concentration": "column_concentration",
    "r2_relative": "shift_invariance_r2",
    "r2_absolute": "column_r2",
}
PAIR_NAMES = {
    "head_similarity": "cos_per_query",
    "head_similarity_centred": "cos_centred_per_query",
    "head_divergence": "kl_nats",
}


@cache
def truth() -> dict[str, Any]:
    """attention_truth.json: ``cases``, ``uniform_control`` and answers for features."""
    text = resources.files("fdlab.known_answers").joinpath("attention_truth.json").read_text(encoding="utf-8")
    return json.loads(text)


def names() -> list[str]:
    """The cases, in the order of the file."""
    return [case["name"] for case in truth()["cases"]]


def run_case(name: str, dtype: torch.dtype = torch.float64) -> list[Check]:
    """Every metric of one case, through the same code as any model's attention."""
    case = next(case for case in truth()["cases"] if case["name"] == name)
    maps = maps_of(name).to(dtype)
    tokens: dict[str, Any] = {"grid": tuple(case["grid"]), "patch_size": tuple(case["patch"])}
    metrics = attention_metrics(maps, prefix_tokens=case["prefix"], **tokens)
    raw = attention_metrics(maps, prefix_tokens=case["prefix"], renormalise=False, metrics=("distance",), **tokens)
    line = uniform_distance(tokens["grid"], tokens["patch_size"])
    checks = []
    for head, known in enumerate(case["heads"]):
        checks += [
            _check(f"{ours}, head {head}", metrics[ours][0, head], known[theirs], dtype)
            for ours, theirs in HEAD_NAMES.items()
        ]
        checks.append(
            _check(
                f"distance not renormalised, head {head}",
                raw["distance"][0, head],
                known["distance_px_not_renormalised"],
                dtype,
            )
        )
        checks.append(
            _check(
                f"distance_ratio, head {head}", metrics["distance_ratio"][0, head], known["distance_px"] / line, dtype
            )
        )
    for ours, theirs in PAIR_NAMES.items():
        checks.append(_check(ours, metrics[ours][0], case["pairs"][theirs] if case["pairs"] else None, dtype))
    return checks


def _check(what: str, measured: Tensor, expected: float | None, dtype: torch.dtype) -> Check:
    """Undefined values (0/0, infinite) are NaN on both sides."""
    if expected is None:
        return Check(what, float(measured), math.nan, 0.0)
    return Check(what, float(measured), expected, TOLERANCE[dtype] * max(1.0, abs(expected)))


def cells(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """(row, column) of every patch, row major."""
    return [(r, c) for r in range(grid[0]) for c in range(grid[1])]


def from_rule(grid: tuple[int, int], weight: Any) -> Tensor:
    """(N, N) with rows normalised; ``weight((r, c), (s, d))``."""
    places = cells(grid)
    rows = torch.tensor([[float(weight(q, k)) for k in places] for q in places], dtype=torch.float64)
    return rows / rows.sum(-1, keepdim=True)


def gauss(sigma: float, grid: tuple[int, int] = (4, 4)) -> Tensor:
    """Rows fall off with the squared distance in patches."""
    return from_rule(grid, lambda q, k: math.exp(-((q[0] - k[0]) ** 2 + (q[1] - k[1]) ** 2) / (2 * sigma * sigma)))


def mod11(tokens: int, head: int) -> Tensor:
    """1 + (7 i + 13 j + 5 head) mod 11, rows normalised: no symmetry at all."""
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
    simple = _simple()
    key = name.removesuffix("_4x4_p16")
    if key in simple:
        return simple[key][None, None]
    heads = {
        "mod11_heads0to2": lambda: [mod11(16, h) for h in range(3)],
        "mod11_prefix1_heads0to1": lambda: [mod11(17, h) for h in range(2)],
        "uniform_prefix1": lambda: [torch.full((17, 17), 1 / 17, dtype=torch.float64)],
        "uniform_prefix5": lambda: [torch.full((21, 21), 1 / 21, dtype=torch.float64)],
        "gauss1_prefix1_mass0.75": lambda: [with_prefix(simple["gauss1"], 0.75)],
        "uniform_2x3_p16x8": lambda: [torch.full((6, 6), 1 / 6, dtype=torch.float64)],
        "mod11_2x5_p14": lambda: [mod11(10, 0)],
        "heads_identity_uniform": lambda: [simple["identity"], simple["uniform"]],
        "heads_identity_shift": lambda: [simple["identity"], simple["shift_right_wrap"]],
        "heads_equal_gauss": lambda: [simple["gauss1"], simple["gauss1"]],
        "heads_gauss1_gauss2": lambda: [gauss(1.0), gauss(2.0)],
        "heads_mix_uniform": lambda: [simple["half_identity_half_uniform"], simple["halves"]],
    }
    return torch.stack(heads[key]())[None]
