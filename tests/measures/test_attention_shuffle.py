"""The shuffled control: known answers, and that it separates sharpness from where the queries look."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from fdlab.known_answers.attention import maps_of
from fdlab.measures.attention import attention_metrics, metrics_from_logits
from fdlab.measures.attention_sums import shuffled_cosine, shuffled_keys, shuffled_sum

CPU = torch.device("cpu")


def test_every_query_has_a_permutation_of_its_own_and_every_run_the_same() -> None:
    order = shuffled_keys(16, CPU)
    assert bool((order.sort(-1).values == torch.arange(16)).all())
    assert len({tuple(row) for row in order.tolist()}) == 16
    shuffled_keys.cache_clear()
    assert torch.equal(shuffled_keys(16, CPU), order)


def test_uniform_maps_are_unchanged() -> None:
    found = attention_metrics(torch.full((2, 3, 16, 16), 1 / 16), grid=(4, 4), patch_size=16)
    torch.testing.assert_close(found["head_similarity_shuffled"], torch.ones(2))
    assert float(found["nmi_shuffled"].max()) < 1e-6


def test_the_identity_becomes_one_key_a_query() -> None:
    mean = shuffled_sum(torch.eye(16, dtype=torch.float64)) / 16
    hits = torch.zeros(16, dtype=torch.float64)
    for i, keys in enumerate(shuffled_keys(16, CPU).tolist()):
        hits[keys.index(i)] += 1 / 16
    torch.testing.assert_close(mean, hits)
    found = attention_metrics(maps_of("identity_4x4_p16"), grid=(4, 4), patch_size=16)
    entropy = -sum(float(p) * math.log(float(p)) for p in hits if p > 0)
    assert float(found["nmi"]) == pytest.approx(1)
    assert float(found["nmi_shuffled"]) == pytest.approx(math.sqrt(entropy / math.log(16)))


def test_two_identities_share_a_key_once_in_n() -> None:
    found = attention_metrics(torch.eye(16).expand(1, 2, 16, 16), grid=(4, 4), patch_size=16)
    assert float(found["head_similarity"]) == pytest.approx(1)
    assert float(found["head_similarity_shuffled"]) == pytest.approx(1 / 16)


def test_cosine_is_the_mean_over_all_permutations() -> None:
    a, b = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    every = [torch.cosine_similarity(a, b[list(order)], dim=0) for order in itertools.permutations(range(5))]
    torch.testing.assert_close(torch.stack(every).mean(), shuffled_cosine(a.norm(), b.norm(), 5))


def test_random_logits_are_their_own_control_and_structured_ones_are_not() -> None:
    options: dict[str, Any] = {"grid": (14, 14), "patch_size": 16}
    noise = 2 * torch.randn(1, 4, 196, 196, generator=torch.Generator().manual_seed(0))
    found = metrics_from_logits(noise, **options)
    assert float(found["nmi"].min()) > 0.3  # sharp, and no structure at all
    torch.testing.assert_close(found["nmi_shuffled"], found["nmi"], atol=0.01, rtol=0)
    torch.testing.assert_close(found["head_similarity_shuffled"], found["head_similarity"], atol=0.01, rtol=0)
    # what all queries share is lost in the control: r(key) alone
    stripes = metrics_from_logits(noise[:, :, :1].expand(-1, -1, 196, -1), **options)
    assert float(stripes["nmi"].max()) < 1e-3
    torch.testing.assert_close(stripes["nmi_shuffled"], 1 - stripes["entropy"], atol=0.02, rtol=0)
