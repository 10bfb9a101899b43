"""RandAugment: known answers of the operations, one generator a sample, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fdlab.data.loader import Batches
from fdlab.data.randaugment import OPERATIONS, Policy, draw_policy, rand_augment
from fdlab.data.sources import open_data
from fdlab.data.transforms import View, apply, draw
from fdlab.randomness import stream


def policy(name: str, strength: float, sign: float = 1.0, applied: bool = True) -> Policy:
    place = list(OPERATIONS).index(name)
    return Policy(np.array([place]), np.array([applied]), np.array([strength]), np.array([sign]))


def test_known_answers() -> None:
    image = torch.tensor([0.0, 50, 100, 200]).div(255).view(1, 2, 2).expand(3, 2, 2)

    def values(name: str, strength: float, sign: float = 1.0) -> list[int]:
        return (rand_augment(image, policy(name, strength, sign))[0] * 255).round().int().flatten().tolist()

    assert values("invert", 0.5) == [255, 205, 155, 55]
    assert values("posterize", 0.9) == [0, 0, 0, 128]  # 4 - 3 = 1 bit is left
    assert values("solarize", 0.5) == [0, 50, 100, 55]  # from 256 - 128 on
    assert values("solarize_add", 0.9) == [99, 149, 199, 200]  # + 99 below 128
    assert values("brightness", 1.0, -1.0) == [0, 5, 10, 20]  # at least a tenth is left


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_shape_and_range_and_changes_a_picture(name: str) -> None:
    image, _ = open_data("photos").stack([0], 48)
    out = rand_augment(image[0], policy(name, 0.9))
    assert out.shape == (3, 48, 48)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert (out - image[0]).abs().mean() > 1e-3
    assert torch.equal(rand_augment(image[0], policy(name, 0.9, applied=False)), image[0])


def test_strengths_and_choices_have_their_distribution() -> None:
    drawn = [draw_policy(stream(0, "view", i), 2, 9.0, 0.5) for i in range(2000)]
    strength = np.concatenate([p.strength for p in drawn])
    assert strength.max() <= 1.0
    assert abs(np.median(strength) - 0.9) < 0.01
    assert abs(np.mean([p.applied for p in drawn]) - 0.5) < 0.03
    counts = np.bincount(np.concatenate([p.choice for p in drawn]), minlength=15)
    assert counts.min() > 0.7 * 4000 / 15


def test_it_leaves_the_other_draws_alone_and_depends_on_the_sample_only() -> None:
    plain, more = View(crop=(0.5, 1.0), flip=0.5), View(crop=(0.5, 1.0), flip=0.5, randaugment=2)
    generators = [[stream(0, "view", i) for i in range(6)] for _ in range(2)]
    assert np.array_equal(draw(plain, generators[0], 24).uniforms, draw(more, generators[1], 24).uniforms)
    data = open_data("digits#train").subset(range(32))
    loads = [
        Batches(data, size=24, batch=b, seed=0, view=more, start=0, stop=1, workers=w).__iter__().__next__()
        for b, w in ((32, 0), (32, 1), (8, 0))
    ]
    assert torch.equal(loads[0].images[0], loads[1].images[0])
    assert torch.equal(loads[0].images[0][:8], loads[2].images[0])
    assert not torch.equal(
        loads[0].images[0], next(iter(Batches(data, size=24, batch=32, seed=0, view=plain, start=0, stop=1))).images[0]
    )


def test_bicubic_crops_stay_in_range() -> None:
    image = (torch.rand(3, 60, 60) > 0.5).float()
    for how in ("bilinear", "bicubic"):
        view = View(crop=(0.3, 1.0), interpolation=how)  # type: ignore[arg-type]
        out = apply([image], view, draw(view, [stream(0, "v")], 24), 24, direct=False)
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
    both = [View(crop=(0.3, 1.0), interpolation=how) for how in ("bilinear", "bicubic")]  # type: ignore[arg-type]
    outs = [apply([image], v, draw(v, [stream(0, "v")], 24), 24, direct=False) for v in both]
    assert not torch.equal(*outs)
