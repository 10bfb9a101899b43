"""Views: that settings do what they say, by known answers on both routes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.transforms import v2

from fdlab.data.transforms import (
    CONTRASTIVE,
    LIGHT,
    NONE,
    PAPER_FD,
    UNIFORMS,
    Draws,
    View,
    apply,
    crop_boxes,
    draw,
    fit,
    fitted,
)
from fdlab.randomness import stream


def generators(count: int):
    return [stream(0, "test", i) for i in range(count)]


def fixed(**values: float) -> Draws:
    """Draws of one sample, all in the middle but for the named ones."""
    names = [
        "area",
        "ratio",
        "y",
        "x",
        "flip",
        "turn",
        "dx",
        "dy",
        "brightness",
        "contrast",
        "saturation",
        "grey",
    ]
    uniforms = np.full((1, UNIFORMS), 0.5)
    for name, value in values.items():
        uniforms[0, names.index(name)] = value
    return Draws(uniforms, None)


def ramp(side: int = 16) -> torch.Tensor:
    """(1, 3, s, s): the column's number in red, the row's in green, as shares."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 0.5)])[None].float()


def run(view: View, draws: Draws, images: torch.Tensor, size: int = 16, listed: bool = False) -> torch.Tensor:
    return apply(list(images) if listed else images, view, draws, size, direct=True)[0]


@pytest.mark.parametrize(
    "bad", [{"crop": (0.9, 0.5)}, {"crop": (0.5, 1.5)}, {"flip": 2}, {"turn": 5}, {"ratio": (0, 1)}]
)
def test_wrong_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        View(**bad)


@pytest.mark.parametrize("listed", [False, True])
def test_nothing_changes_nothing(listed):
    assert torch.equal(run(NONE, fixed(flip=0.0, turn=0.9, brightness=0.9), ramp(), listed=listed), ramp()[0])


@pytest.mark.parametrize("listed", [False, True])
def test_flip(listed):
    view = View(flip=0.5)
    assert torch.equal(run(view, fixed(flip=0.49), ramp(), listed=listed), ramp()[0].flip(-1))
    assert torch.equal(run(view, fixed(flip=0.51), ramp(), listed=listed), ramp()[0])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_quarter_turn_and_its_opposite(mirrored):
    source = ramp()[0].flip(-1) if mirrored else ramp()[0]
    view = View(rotate=90, flip=float(mirrored))
    one, other = run(view, fixed(turn=0.0), ramp()), run(view, fixed(turn=1.0), ramp())
    turned = {tuple(t.flatten().tolist()) for t in (torch.rot90(source, 1, (1, 2)), torch.rot90(source, -1, (1, 2)))}
    wanted = torch.tensor(sorted(turned))
    found = torch.tensor(sorted(tuple(t.flatten().tolist()) for t in (one, other)))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_shift_is_in_pixels_of_the_output():
    moved = run(View(shift=2), fixed(dx=1.0), ramp())
    assert torch.allclose(moved[:, :, 2:], ramp()[0][:, :, :-2], atol=1e-6)
    assert torch.allclose(moved[:, :, 0], ramp()[0][:, :, 1], atol=1e-6)  # mirrored at the edge
    down = run(View(shift=3), fixed(dy=1.0), ramp())
    assert torch.allclose(down[:, 3:], ramp()[0][:, :-3], atol=1e-6)


@pytest.mark.parametrize("listed", [False, True])
def test_a_quarter_crop_shows_that_quarter(listed):
    view = View(crop=(0.25, 0.25), ratio=(1, 1))
    corner = run(view, fixed(y=1.0, x=0.0), ramp(), size=16, listed=listed)
    assert float(corner[0].min()) == pytest.approx(0, abs=0.02)
    assert float(corner[0].max()) == pytest.approx(7 / 16, abs=0.04)
    assert float(corner[1].min()) == pytest.approx(8 / 16, abs=0.04)
    assert float(corner[1].max()) == pytest.approx(15 / 16, abs=0.02)


def test_both_routes_show_the_same_crop():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    smooth = fit(fit(images, 4, direct=True), 16, direct=True)
    view = View(crop=(0.25, 0.25), ratio=(1, 1), flip=0.5)
    draws = draw(view, generators(6), 16)
    draws.uniforms[:, 2:4] = np.round(draws.uniforms[:, 2:4] * 8) / 8  # whole pixels, so that rounding is no matter
    one, by_one = (
        apply(smooth, view, draws, 16, direct=True),
        apply(list(smooth), view, draws, 16, direct=True),
    )
    assert float((one - by_one).abs()[:, :, 2:-2, 2:-2].max()) < 0.02


@given(
    h=st.integers(1, 3000),
    w=st.integers(1, 3000),
    low=st.floats(0.05, 1),
    high=st.floats(0.05, 1),
    u=st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4),
)
def test_crops_keep_their_area_and_stay_inside(h, w, low, high, u):
    view = View(crop=(min(low, high), max(low, high)))
    uniforms = np.zeros((1, UNIFORMS))
    uniforms[0, :4] = u
    top, left, height, width = crop_boxes(view, uniforms, np.array([[h, w]], dtype=float))[0]
    share = view.crop[0] + u[0] * (view.crop[1] - view.crop[0])
    assert height * width == pytest.approx(share * h * w, rel=1e-6)
    assert top >= 0
    assert left >= 0
    assert top + height <= h + 1e-6
    assert left + width <= w + 1e-6


def test_areas_and_ratios_have_the_law_of_the_settings():
    u = np.random.default_rng(0).random((4000, UNIFORMS))
    boxes = crop_boxes(View(crop=(0.2, 0.5)), u, np.full((4000, 2), 100.0))
    share, ratio = boxes[:, 2] * boxes[:, 3] / 1e4, np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(share.mean() - 0.35) < 3 * 0.3 / math.sqrt(12 * 4000)
    assert abs(ratio.mean()) < 3 * ratio.std() / math.sqrt(4000)
    assert ratio.std() == pytest.approx(0.166, abs=0.01)


def test_colours():
    image = torch.tensor([0.2, 0.4, 0.6])[None, :, None, None].expand(1, 3, 8, 8).contiguous()
    half = run(View(brightness=0.5), fixed(brightness=0.0), image, 8)
    assert torch.allclose(half, image[0] / 2)
    bright = run(View(brightness=1), fixed(brightness=1.0), image, 8)
    assert float(bright.max()) == 1.0  # clipped
    grey = run(View(grey=1), fixed(), image, 8)
    luma = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    assert torch.allclose(grey, torch.full_like(grey, luma), atol=1e-6)
    assert torch.allclose(run(View(saturation=0.5), fixed(saturation=0.5), image, 8), image[0], atol=1e-6)
    flat = run(View(contrast=1), fixed(contrast=0.0), ramp())
    assert float(flat.std()) < 1e-5
    assert float(flat[0, 0, 0]) == pytest.approx(0.2989 * 15 / 32 + 0.587 * 15 / 32 + 0.057, abs=0.01)


def test_noise_has_its_size_and_is_new_for_each_sample():
    middle = torch.full((8, 3, 24, 24), 0.5)
    view = View(noise=0.1)
    out = apply(middle, view, draw(view, generators(8), 24), 24, direct=True)
    assert float((out - 0.5).std()) == pytest.approx(0.1, abs=0.003)
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[0, 0], out[0, 1])


def test_a_sample_does_not_depend_on_its_neighbours():
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    whole = apply(images, CONTRASTIVE, draw(CONTRASTIVE, generators(5), 24), 24, direct=True)
    alone = apply(images[3:4], CONTRASTIVE, draw(CONTRASTIVE, [stream(0, "test", 3)], 24), 24, direct=True)
    assert torch.equal(whole[3], alone[0])


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for view in (CONTRASTIVE, PAPER_FD, LIGHT, View(crop=(0.1, 1), rotate=10, grey=0.5)):
        for size in (16, 64):
            out = apply(
                torch.rand(2, 3, 48, 40, generator=torch.Generator()),
                view,
                draw(view, generators(2), size),
                size,
                direct=False,
            )
            assert out.shape == (2, 3, size, size)
            assert out.min() >= 0
            assert out.max() <= 1
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_images_of_any_size_and_type_in_one_list():
    images = [
        torch.zeros(3, 50, 300, dtype=torch.uint8),
        torch.ones(3, 7, 5),
        torch.full((3, 1, 1), 255, dtype=torch.uint8),
    ]
    for view in (PAPER_FD, NONE):
        out = apply(images, view, draw(view, generators(3), 32), 32, direct=False)
        assert out.shape == (3, 3, 32, 32)
        assert out.dtype == torch.float32
        assert [float(o.mean()) for o in out] == pytest.approx([0, 1, 1], abs=1e-5)


@given(h=st.integers(1, 400), w=st.integers(1, 400), size=st.integers(1, 64), direct=st.booleans())
def test_the_evaluation_transform_always_gives_the_size(h, w, size, direct):
    assert fit(torch.zeros(3, h, w), size, direct=direct).shape == (3, size, size)


def test_the_evaluation_transform_shows_the_centre():
    wide = torch.zeros(3, 256, 512)
    wide[:, :, 128:384] = 1
    assert float(fit(wide, 224, direct=False).min()) > 0.99
    inner = torch.zeros(3, 256, 256)
    inner[:, 16:240, 16:240] = 1
    assert torch.equal(fit(inner, 224, direct=False), torch.ones(3, 224, 224))  # 256 -> crop 224, no resampling
    assert float(fit(inner, 224, direct=True)[:, 0, 0].max()) == 0  # direct: the whole image


@pytest.mark.parametrize("shape", [(427, 640), (375, 500), (501, 334), (300, 300), (100, 251)])
def test_the_evaluation_transform_is_torchvisions(shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for direct, short in ((False, 256), (True, 224)):
        theirs = v2.CenterCrop(224)(v2.Resize(short, antialias=True)(image))
        assert torch.equal(fitted(image, 224, direct=direct), theirs), (shape, direct)


def test_nothing_is_made_smaller_without_antialiasing():
    board = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(fit(board, 16, direct=True).std()) < 0.08  # 0.05; 0.14 without antialiasing
    view = View(crop=(0.9, 0.9), ratio=(1, 1))
    for images in (board[None], [board]):
        out = apply(images, view, draw(view, generators(1), 12), 12, direct=True)
        assert float(out.std()) < 0.08


def test_two_views_of_a_digit_batch_are_fast():
    images = torch.rand(64, 3, 24, 24)
    start = time.process_time()
    for _ in range(6):
        apply(images, CONTRASTIVE, draw(CONTRASTIVE, generators(64), 24), 24, direct=True)
    assert (time.process_time() - start) / 3 < 0.15  # 8 ms a pair here; the bound only catches a change of kind
