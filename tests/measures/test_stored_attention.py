"""What a browser is given of a block: within its limits, and read back by other code to the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdlab.measures.attention import attention_metrics
from fdlab.measures.stored_attention import EXACT, NATS, Limits, StoredBlock, store_bias, store_block

GRID, PATCH, RANK, HEADS = (6, 7), (16, 8), 8, 3


def products(sharp: float, prefix: int = 1, seed: int = 0) -> torch.Tensor:
    """(1, heads, T, T) logits of queries and keys."""
    generator = torch.Generator().manual_seed(seed)
    tokens = prefix + GRID[0] * GRID[1]
    q, k = torch.randn(2, HEADS, tokens, RANK, dtype=torch.float64, generator=generator)
    return (sharp * q @ (k + 3.0).mT / RANK**0.5)[None]  # a mean of the keys that the softmax does not see


def read_back(stored: StoredBlock, tokens: int) -> torch.Tensor:
    """(heads, T, T) logits, as the page reads them."""
    raw, place, found = np.frombuffer(stored.data, np.uint8), 0, []
    for head in stored.heads:
        size = tokens * head["rank"]
        parts = []
        if head["wide"]:
            low, high = raw[place : place + 2 * size], raw[place + 2 * size : place + 4 * size]
            whole = (low.astype(np.int32) | (high.astype(np.int8).astype(np.int32) << 8)).astype(float)
            parts, place = [whole[:size], whole[size:]], place + 4 * size
        else:
            whole = raw[place : place + 2 * size].view(np.int8).astype(float)
            parts, place = [whole[:size], whole[size:]], place + 2 * size
        a, b = (part.reshape(head["rank"], tokens).T * head["step"] for part in parts)
        found.append(torch.from_numpy(a @ b.T))
    assert place == len(raw)
    return torch.stack(found)


def drawn(logits: torch.Tensor, prefix: int) -> torch.Tensor:
    return logits[..., prefix:].softmax(-1)


@pytest.mark.parametrize("limits", [Limits(), EXACT], ids=["usual", "exact"])
@pytest.mark.parametrize("sharp", [0.02, 1.0, 6.0])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_rows_are_read_back_within_the_limits(sharp: float, prefix: int, limits: Limits) -> None:
    logits = products(sharp, prefix)
    stored = store_block(logits, grid=GRID, patch=PATCH, rank=RANK, limits=limits)
    assert stored.kind == "factors"
    back, exact = drawn(read_back(stored, logits.shape[-1]), prefix), drawn(logits[0], prefix)
    off = ((back - exact).abs() / exact.amax(-1, keepdim=True)).flatten(1)
    assert off.max() <= limits.map_most + 1e-9
    assert off.quantile(0.985, dim=1).max() <= limits.map_99
    names = ("distance", "entropy")
    options = {"grid": GRID, "patch_size": PATCH, "metrics": names}
    new, old = (attention_metrics(maps[None, :, prefix:], **options) for maps in (back, exact))
    assert ((new["distance"] - old["distance"]).abs() / old["distance"]).max() <= limits.distance + 1e-9
    assert (new["entropy"] - old["entropy"]).abs().max() <= limits.entropy + 1e-9
    assert stored.errors["map_most"] == pytest.approx(float(off.max()), abs=1e-6)


def test_the_step_is_the_coarsest_that_keeps_them() -> None:
    usual, exact = (
        store_block(products(2.0), grid=GRID, patch=PATCH, rank=RANK, limits=limits) for limits in (Limits(), EXACT)
    )
    assert all(a["step"] > b["step"] for a, b in zip(usual.heads, exact.heads, strict=True))
    worst = {name: usual.errors[name] / getattr(Limits(), name) for name in usual.errors}
    assert 0.8 < max(worst.values()) <= 1.0  # a coarser one would not


def test_numbers_are_those_of_the_probe() -> None:
    logits = products(2.0)
    stored = store_block(logits, grid=GRID, patch=PATCH, rank=RANK)
    own = attention_metrics(logits.softmax(-1), grid=GRID, patch_size=PATCH, prefix_tokens=1)
    for name in ("distance", "entropy", "nmi", "prefix_mass"):
        assert stored.numbers[name] == pytest.approx(own[name][0].tolist())


def test_a_bias_is_kept_beside_the_product() -> None:
    down, across = GRID
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(HEADS, 2 * down - 1, 2 * across - 1, generator=generator)
    r, c = torch.arange(down).repeat_interleave(across), torch.arange(across).repeat(down)
    bias = torch.randn(HEADS, 1 + down * across, 1 + down * across, generator=generator)
    bias[:, 1:, 1:] = table[:, r[None] - r[:, None] + down - 1, c[None] - c[:, None] + across - 1]
    logits = products(1.0) + bias
    kept = store_bias(bias, GRID)
    assert kept is not None
    torch.testing.assert_close(kept.bias.float(), bias, atol=2e-4, rtol=0)
    count = HEADS * ((2 * down - 1) * (2 * across - 1) + (1 + down * across) + down * across)
    assert len(kept.data) == 2 * count
    stored = store_block(logits, grid=GRID, patch=PATCH, rank=RANK, bias=kept.bias)
    assert stored.kind == "factors"
    exact = drawn(logits[0], 1)
    back = drawn(read_back(stored, logits.shape[-1]) + kept.bias, 1)
    assert ((back - exact).abs() / exact.amax(-1, keepdim=True)).max() <= 0.1
    assert store_block(logits, grid=GRID, patch=PATCH, rank=RANK).kind == "logs"  # without it the rank is full


def test_a_bias_that_is_no_function_of_offsets_is_not_stored_as_one() -> None:
    assert store_bias(torch.randn(2, 42, 42, generator=torch.Generator().manual_seed(1)), GRID) is None


def test_windows_and_masks_are_logarithms() -> None:
    logits = products(3.0, prefix=0).repeat(4, 1, 1, 1)
    logits[1, :, :, 5:] = -torch.inf
    stored = store_block(logits, grid=GRID, patch=PATCH, rank=RANK)
    assert stored.kind == "logs"
    codes = torch.from_numpy(np.frombuffer(stored.data, np.uint8).copy()).reshape(logits.shape)
    assert bool((codes[1, :, :, 5:] == 255).all())
    back = torch.where(codes == 255, 0.0, (-codes.double() * NATS / 254).exp())
    back = back / back.sum(-1, keepdim=True)
    torch.testing.assert_close(back[1, ..., :5].sum(-1), torch.ones(HEADS, 42, dtype=torch.float64))
    exact = logits.softmax(-1)
    assert ((back - exact).abs() / exact.amax(-1, keepdim=True)).max() < 0.03
    assert stored.errors["map_most"] < 0.03
