"""Two released trained models: distances and accuracies are those that were measured on them independently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fdlab.checkpoints.open import open_model
from fdlab.data.sources import open_data
from fdlab.probes.attention import measure_attention

# mean over heads by block in px, first 64 lossless test images
KNOWN = {
    "vit_d12_w72_p2_cifar10_scratch.safetensors": [
        15.7, 14.6, 16.4, 15.7, 16.7, 17.4, 16.7, 16.9, 16.5, 16.1, 16.5, 16.1,
    ],
    "vit_d12_w72_p2_cifar10_mae_finetuned.pth": [
        16.3, 14.1, 11.4, 13.9, 13.4, 14.2, 14.2, 13.7, 15.1, 14.2, 14.8, 14.4,
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_distances_by_block(name: str, shared: Callable[[str], Path]) -> None:
    source = open_data(str(shared("data/cifar10/test_lossless_1017.parquet")), size=32, seed=0)
    images = source.stack(range(64), 32)[0]
    record = measure_attention(open_model(shared(f"data/trained/{name}")), images, label=name, metrics=["distance"])
    assert record.manifest["uniform_distance_px"] == pytest.approx(16.7, abs=0.05)
    np.testing.assert_allclose(record.arrays["distance"].mean((0, 2)), KNOWN[name], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [("vit_d12_w72_p2_cifar10_scratch.safetensors", 73.0), ("vit_d12_w72_p2_cifar10_mae_finetuned.pth", 81.0)],
)
def test_accuracies(name: str, expected: float, shared: Callable[[str], Path]) -> None:
    source = open_data(str(shared("data/cifar10/test_lossless_1017.parquet")), size=32, seed=0)
    encoder = open_model(shared(f"data/trained/{name}"))
    right = 0
    for start in range(0, len(source), 64):
        images, labels = source.stack(range(start, min(start + 64, len(source))), 32)
        with torch.no_grad():
            right += int((encoder.logits(encoder.normalise(images)).argmax(1) == labels).sum())
    assert 100 * right / 1017 == pytest.approx(expected, abs=0.3)
