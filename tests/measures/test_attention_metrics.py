"""Attention metrics: every known answer, both routes, recorded maps against plain loops, hard inputs."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from attention_loops import by_loops

from fdlab.errors import FdlabError
from fdlab.known_answers.attention import from_rule, maps_of, names, run_case, truth, with_prefix
from fdlab.measures.attention import (
    ALL,
    PER_HEAD,
    PER_IMAGE,
    attention_metrics,
    metrics_from_logits,
    metrics_from_sums,
    sums_for,
    uniform_distance,
)
from fdlab.measures.attention_sums import QuerySums, _head_products

TRUTH = truth()
FIXTURES = Path(os.environ.get("FDLAB_SHARED", "../shared")) / "fixtures"
# one grid for all blocks: everything but the windowed models
PLAIN = sorted(p.parent.name for p in FIXTURES.glob("*/meta.json") if "window_size" not in p.read_text()) or [
    "dino_backbone"
]


def test_there_are_23_cases() -> None:
    assert len(TRUTH["cases"]) == 23
    assert len(TRUTH["uniform_control"]) == 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", names())
def test_known_answer(name: str, dtype: torch.dtype) -> None:
    checks = run_case(name, dtype)
    assert len(checks) >= 13
    assert not [check for check in checks if not check.right]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_results_keep_the_dtype_of_the_maps(dtype: torch.dtype) -> None:
    found = attention_metrics(maps_of("gauss1_4x4_p16").to(dtype), grid=(4, 4), patch_size=16)
    assert {value.dtype for value in found.values()} == {torch.float32 if dtype == torch.float16 else dtype}


@pytest.mark.parametrize("control", TRUTH["uniform_control"], ids=lambda c: f"{c['grid']}p{c['patch']}")
def test_uniform_distance(control: dict[str, Any]) -> None:
    assert uniform_distance(tuple(control["grid"]), control["patch"]) == pytest.approx(
        control["uniform_distance_px"], rel=1e-10
    )


def test_shipped_truth_is_the_reference(shared: Any) -> None:
    assert shared("reference/attention_truth.json").read_text() == _shipped()


def _shipped() -> str:
    import fdlab.known_answers

    return (Path(fdlab.known_answers.__file__).parent / "attention_truth.json").read_text()


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 6)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_both_routes_agree_with_loops(grid: tuple[int, int], prefix: int) -> None:
    tokens = prefix + grid[0] * grid[1]
    logits = 2 * torch.randn(2, 3, tokens, tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"grid": grid, "patch_size": 8, "prefix_tokens": prefix}
    expected = by_loops(logits.softmax(-1), grid, 8, prefix)
    for found in (
        attention_metrics(logits.softmax(-1), **options),
        metrics_from_logits(logits, **options),
        metrics_from_logits(logits[:, :, prefix:], **options),
    ):
        assert set(found) == set(ALL)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("fixture", PLAIN)
def test_recorded_maps_against_loops(shared: Any, fixture: str) -> None:
    folder = shared(f"fixtures/{fixture}")
    meta = json.loads((folder / "meta.json").read_text())
    patch, prefix = meta.get("patch") or meta["patch_size"], meta["prefix_tokens"]
    prefix = prefix if isinstance(prefix, int) else len(prefix)
    recorded = load_file(folder / "expected.safetensors")
    grid = (recorded["images"].shape[-2] // patch, recorded["images"].shape[-1] // patch)
    for place in ("attn_first", "attn_last"):
        found = attention_metrics(recorded[place], grid=grid, patch_size=patch, prefix_tokens=prefix)
        expected = by_loops(recorded[place], grid, patch, prefix)
        assert set(found) == set(expected) | {"distance_ratio"}
        expected["distance_ratio"] = expected["distance"] / uniform_distance(grid, patch)
        for name, value in expected.items():
            assert bool(value.isfinite().all()), name
            torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-4, msg=f"{place} {name}")


def test_huge_prefix_logit_stays_finite_and_changes_nothing_else() -> None:
    logits = 2 * torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    plain = metrics_from_logits(logits, grid=(4, 4), patch_size=16, prefix_tokens=1)
    logits[..., 0] += 22
    found = metrics_from_logits(logits, grid=(4, 4), patch_size=16, prefix_tokens=1)
    assert bool((found["prefix_mass"] > 0.999999).all())
    for name in set(ALL) - {"prefix_mass"}:
        assert bool(torch.isfinite(found[name]).all()), name
        torch.testing.assert_close(found[name], plain[name])


def test_shared_hard_mask_keeps_divergence_and_unequal_ones_make_it_undefined() -> None:
    logits = torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    windows = from_rule((4, 4), lambda q, k: q[1] // 2 == k[1] // 2) == 0
    both = metrics_from_logits(logits.masked_fill(windows, -math.inf), grid=(4, 4), patch_size=16)
    y = logits.masked_fill(windows, -math.inf).softmax(-1)
    a, b = y[0, 0], y[0, 1]
    inside = ~windows
    expected = [float((p[inside] * (p[inside] / q[inside]).log()).sum() / 16) for p, q in ((a, b), (b, a))]
    assert float(both["head_divergence"]) == pytest.approx(sum(expected) / 2)
    assert all(bool(torch.isfinite(value).all()) for value in both.values())
    logits[0, 1] = logits[0, 1].masked_fill(windows, -math.inf)
    one = metrics_from_logits(logits, grid=(4, 4), patch_size=16)
    assert math.isnan(float(one["head_divergence"]))
    assert all(bool(torch.isfinite(one[name]).all()) for name in set(ALL) - {"head_divergence"})


def test_sharp_divergence_needs_no_epsilon() -> None:
    logits = 40 * torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = metrics_from_logits(logits, grid=(4, 4), patch_size=16)["head_divergence"]
    single = metrics_from_logits(logits.float(), grid=(4, 4), patch_size=16)["head_divergence"]
    log = logits.log_softmax(-1)[0]
    kl = [float((log[a].exp() * (log[a] - log[b])).sum(-1).mean()) for a, b in ((0, 1), (1, 0))]
    assert float(exact) == pytest.approx(sum(kl) / 2)
    assert float(single) == pytest.approx(sum(kl) / 2, rel=1e-5)


def test_nearly_uniform_maps_keep_their_digits() -> None:
    logits = 1e-3 * torch.randn(1, 2, 49, 49, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = metrics_from_logits(logits, grid=(7, 7), patch_size=16)
    single = metrics_from_logits(logits.float(), grid=(7, 7), patch_size=16)
    for name in ("r2_relative", "r2_absolute", "head_similarity_centred"):
        torch.testing.assert_close(single[name].double(), exact[name], rtol=1e-3, atol=1e-3, msg=name)


def test_constant_logits_are_exactly_uniform_on_any_grid() -> None:
    for side in (3, 6, 7, 14):
        found = metrics_from_logits(torch.full((1, 2, side**2, side**2), 0.3), grid=(side, side), patch_size=16)
        assert bool(found["r2_relative"].isnan().all() and found["head_similarity_centred"].isnan().all())
        assert float(found["nmi"].abs().max()) < 1e-6
        assert float(found["entropy"].min()) == pytest.approx(1)


def test_a_row_wholly_on_the_prefix_is_undefined_not_wrong() -> None:
    maps = with_prefix(from_rule((4, 4), lambda q, k: 1), 1.0)[None, None]
    found = attention_metrics(maps, grid=(4, 4), patch_size=16, prefix_tokens=1)
    assert float(found["prefix_mass"]) == 1.0
    assert math.isnan(float(found["distance"]))
    assert math.isnan(float(found["nmi"]))
    assert math.isnan(float(found["entropy"]))


def test_chosen_metrics_equal_the_same_of_all() -> None:
    logits = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"grid": (4, 4), "patch_size": 16, "prefix_tokens": 1}
    everything = metrics_from_logits(logits, **options)
    for name in ALL:
        found = metrics_from_logits(logits, metrics=[name], **options)
        assert list(found) == [name]
        torch.testing.assert_close(found[name], everything[name], rtol=1e-5, atol=1e-6)
    assert all(everything[name].shape == (2, 3) for name in PER_HEAD)
    assert all(everything[name].shape == (2,) for name in PER_IMAGE)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = metrics_from_logits(logits, grid=(4, 4), patch_size=16)
    exact = metrics_from_logits(logits.float(), grid=(4, 4), patch_size=16)
    assert all(torch.equal(found[name], exact[name]) for name in ALL)


def test_both_forms_of_head_products_agree() -> None:
    """The form for graphics cards is one einsum; here it meets the form for processors."""
    a, b = torch.randn(2, 2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(_head_products(a, b), torch.einsum("bhij,bgij->bihg", a, b))


def test_gradients_flow() -> None:
    logits = torch.randn(1, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    total = sum(value.sum() for value in metrics_from_logits(logits, grid=(3, 3), patch_size=4).values())
    total.backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad.abs().max()) > 0


def test_rectangles_are_not_swapped() -> None:
    maps = from_rule((2, 5), lambda q, k: k == (q[0], min(q[1] + 1, 4)))[None, None]
    right = attention_metrics(maps, grid=(2, 5), patch_size=(16, 8))
    assert float(right["distance"]) == pytest.approx(8 * 4 / 5)


@pytest.mark.parametrize(
    ("maps", "options", "words"),
    [
        (torch.ones(1, 1, 16, 16) / 16, {"grid": (3, 5)}, "does not fit"),
        (torch.ones(1, 1, 17, 17) / 17, {"grid": (4, 4)}, "does not fit"),
        (-torch.ones(1, 1, 16, 16), {"grid": (4, 4)}, "negative"),
        (torch.ones(1, 1, 16, 16) / 16, {"grid": (4, 4), "metrics": ["entropi"]}, "'entropy'"),
    ],
)
def test_refusals(maps: torch.Tensor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(FdlabError, match=words) as caught:
        attention_metrics(maps, patch_size=16, **options)
    assert caught.value.code == 2


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("renormalise", [True, False])
def test_rows_of_patches_one_after_another_give_the_same_numbers(rows: int, masked: bool, renormalise: bool) -> None:
    grid, prefix, kinds = (5, 4), 2, ("cls", "register")
    logits = 2 * torch.randn(2, 3, 22, 22, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if masked:  # one head of one image cannot look at everything
        logits[1, 2, :, 5:9] = -math.inf
    options = {"patch_size": 16, "prefix_tokens": prefix, "renormalise": renormalise, "prefix_kinds": kinds}
    expected = metrics_from_logits(logits, grid=grid, **options)
    sums = QuerySums(grid, 16, prefix, sums_for(ALL), renormalise, kinds)
    for first in range(0, 20, 4 * rows):
        sums.add(logits[:, :, prefix + first : prefix + first + 4 * rows], first)
    found = metrics_from_sums(sums, ALL)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, equal_nan=True)
    assert bool(found["head_divergence"].isnan().any()) == masked
