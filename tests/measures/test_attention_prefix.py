"""Attention on prefix tokens by kind: known shares, and together exactly the whole."""

from __future__ import annotations

import pytest
import torch

from fdlab.measures.attention import metrics_from_logits
from fdlab.measures.attention_sums import BY_KIND
from fdlab.records.metrics import METRICS

KINDS = ("cls", "register", "register")


def test_known_shares() -> None:
    """Weights 2 (class), 1 and 3 (registers), 1 for each of 4 patches: 2/10 and 4/10."""
    logits = torch.tensor([2.0, 1, 3, 1, 1, 1, 1]).double().log().expand(1, 2, 7, 7)
    found = metrics_from_logits(logits, grid=(2, 2), patch_size=8, prefix_tokens=3, prefix_kinds=KINDS)
    torch.testing.assert_close(found["prefix_mass_cls"], torch.full((1, 2), 0.2).double())
    torch.testing.assert_close(found["prefix_mass_register"], torch.full((1, 2), 0.4).double())
    assert "prefix_mass_dist" not in found


def test_kinds_add_up_and_keep_their_digits() -> None:
    logits = 3 * torch.randn(2, 3, 19, 19, generator=torch.Generator().manual_seed(0))
    options = {"grid": (4, 4), "patch_size": 16, "prefix_tokens": 3, "metrics": ["prefix_mass"]}
    found = metrics_from_logits(logits, prefix_kinds=KINDS, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(found["prefix_mass_cls"] + found["prefix_mass_register"], found["prefix_mass"])
    maps = logits.softmax(-1)[:, :, 3:]
    torch.testing.assert_close(found["prefix_mass_cls"], maps[..., 0].mean(-1))
    logits[..., 0] -= 60
    tiny = metrics_from_logits(logits, prefix_kinds=KINDS, **options)["prefix_mass_cls"]  # type: ignore[arg-type]
    assert bool((tiny > 0).all())


@pytest.mark.parametrize("kinds", [(), ("register",) * 3])
def test_one_kind_is_the_whole_and_no_number_of_its_own(kinds: tuple[str, ...]) -> None:
    logits = torch.randn(1, 1, 7, 7)
    found = metrics_from_logits(logits, grid=(2, 2), patch_size=8, prefix_tokens=3, prefix_kinds=kinds)
    assert not set(found) & set(BY_KIND)


def test_entries() -> None:
    assert all(METRICS[name].high == 1.0 for name in BY_KIND)
