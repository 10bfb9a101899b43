"""Pieces of evaluation images: what ``stack`` gives, in order, whoever decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fdlab.data.evaluation import stacked
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError

PIECES = [range(4), range(4, 4), range(4, 9), range(9, 11)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """11 images of different sizes in two classes; the sixth is unreadable."""
    chance = np.random.default_rng(0)
    for number in range(11):
        path = tmp_path / "ab"[number // 6] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        side = 40 + number
        Image.fromarray(chance.integers(0, 256, (side, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "a" / "05.png").write_bytes(b"nothing")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_pieces_are_stacks_in_order(folder: Path, workers: int) -> None:
    source, plain = open_data(str(folder)), open_data(str(folder))
    state = torch.get_rng_state()
    found = list(stacked(source, iter(PIECES), 32, workers=workers))
    assert torch.equal(state, torch.get_rng_state())
    wanted = [plain.stack(piece, 32) for piece in PIECES]
    assert len(found) == len(wanted)
    for (images, labels), (images_, labels_) in zip(found, wanted, strict=True):
        assert torch.equal(images, images_)
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert labels.tolist() == labels_.tolist()
    assert source.skipped == plain.skipped == 1


def test_as_stored_is_8_bits_of_the_same_pixels(folder: Path) -> None:
    source = open_data(str(folder))
    stored, _ = source.stack(range(4), 32, as_stored=True)
    assert stored.dtype == torch.uint8
    assert torch.equal(stored.float() / 255, source.stack(range(4), 32)[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_mostly_unreadable_images_are_an_error(tmp_path: Path, workers: int) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    Image.new("RGB", (8, 8)).save(tmp_path / "9.png")
    with pytest.raises(FdlabError, match="cannot be read"):
        list(stacked(open_data(str(tmp_path)), [range(7)], 32, workers=workers))
