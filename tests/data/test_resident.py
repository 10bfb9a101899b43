"""8 bits through the loader, and images that live on the device: the same numbers by every way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data import resident as module
from fdlab.data.loader import Batches
from fdlab.data.resident import Resident, obstacle, resident
from fdlab.data.sources import open_data
from fdlab.data.transforms import CONTRASTIVE, PAPER_FD, View, finish
from fdlab.errors import FdlabError

VIEWS = {"paper": PAPER_FD, "turned": CONTRASTIVE, "colours": View(crop=(0.5, 1), flip=0.5, saturation=0.4, grey=0.2)}
AUGMENTED = View(crop=(0.5, 1), flip=0.5, randaugment=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """30 images of 16 px in two classes, one of them unreadable."""
    folder = tmp_path_factory.mktemp("small")
    chance = np.random.default_rng(0)
    for number in range(30):
        path = folder / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (folder / "a" / "08.png").write_bytes(b"nothing")
    return str(folder)


def batches(data: str, view: View, live: bool = False, **more: object) -> Batches:
    source = open_data(data)
    own: dict = {"size": 16, "batch": 8, "seed": 5, "view": view, "views": 2, "stop": 7, **more}
    return Batches(source, **own, resident=Resident(source, "cpu") if live else None)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
def test_resident_images_give_the_same_batches(small, view, workers):
    for one, other in zip(batches(small, view), batches(small, view, live=True, workers=workers), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
        assert 4 not in other.indices.tolist()  # the unreadable one


def test_resident_images_under_randaugment(small):
    for one, other in zip(batches(small, AUGMENTED), batches(small, AUGMENTED, live=True), strict=True):
        assert torch.equal(one.images[1], other.images[1])


def test_under_randaugment_a_gpu_gets_the_images_that_a_cpu_gets_and_none_are_resident(small):
    cpu, gpu = batches(small, AUGMENTED), batches(small, AUGMENTED)
    gpu.device = torch.device("cuda")
    made = gpu.prepare(2)
    assert all(each.draws is None for each in made.views)
    assert all(torch.equal(each.images, view) for each, view in zip(made.views, cpu.load(2).images, strict=True))
    own: dict = {"size": 16, "device": "meta", "view": AUGMENTED}
    assert resident("auto", open_data(small), **own) is None
    with pytest.raises(FdlabError, match="cannot live on meta"):
        resident("on", open_data(small), **own)


def test_resident_images_are_stored_as_they_are(small):
    kept = Resident(open_data(small), "cpu")
    assert kept.images.dtype == torch.uint8
    assert kept.images.shape == (30, 3, 16, 16)


def test_a_later_start_with_resident_images_gives_the_tail(small):
    whole, tail = list(batches(small, PAPER_FD, live=True)), list(batches(small, PAPER_FD, live=True, start=4))
    assert all(torch.equal(a.images[1], b.images[1]) for a, b in zip(whole[4:], tail, strict=True))


@pytest.mark.parametrize(("data", "size"), [("small", 16), ("photos", 64)])
@pytest.mark.parametrize("view", VIEWS.values(), ids=list(VIEWS))
def test_for_a_gpu_the_loader_hands_over_8_bits_and_the_rest_is_done_there(small, data, size, view):
    """``finish`` is what the GPU does; done on a CPU it gives the CPU's batch."""
    name = small if data == "small" else data
    cpu, gpu = batches(name, view, size=size), batches(name, view, size=size)
    gpu.device = torch.device("cuda")
    made = gpu.prepare(2)
    assert all(each.images.dtype == torch.uint8 for each in made.views)
    for each, wanted in zip(made.views, cpu.load(2).images, strict=True):
        assert torch.equal(finish(each, view, size), wanted)


def test_with_a_crop_and_a_flip_alone_8_bits_travel_to_a_cpu_too():
    made = batches("photos", PAPER_FD, size=64).prepare(1)
    assert all(each.images.dtype == torch.uint8 and each.draws is None for each in made.views)


def test_auto_is_off_on_a_cpu_and_on_is_refused_where_it_cannot_be(small):
    source = open_data(small)
    assert resident("auto", source, size=16, device="cpu") is None
    assert resident("off", source, size=16, device="cpu") is None
    assert resident("on", source, size=16, device="cpu") is not None
    with pytest.raises(FdlabError, match="cannot live on cpu") as caught:
        resident("on", open_data("photos"), size=64, device="cpu")
    assert "64 px" in caught.value.why


def test_obstacles(small, monkeypatch):
    own: dict = {"size": 16, "device": "cpu"}
    assert obstacle(open_data(small), **own) == ""
    assert "endless" in obstacle(open_data("locality:0.5"), **{**own, "size": 32})
    assert "one size" in obstacle(open_data(small), **{**own, "size": 8})
    monkeypatch.setattr(module, "LARGEST", 30 * 16 * 16 * 3 - 1)
    assert "GB" in obstacle(open_data(small), **own)
    monkeypatch.setattr(module, "LARGEST", 30 * 16 * 16 * 3)
    assert obstacle(open_data(small), **own) == ""


def test_a_folder_of_other_sizes_is_no_small_data(tmp_path: Path):
    for number, side in enumerate((16, 20)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    assert "one size" in obstacle(open_data(str(tmp_path)), size=32, device="cpu")
