"""Data that comes with scikit-learn: the digits, and crops of its two sample photographs."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.data import vision as tv
from fdlab.data.images import Images, Indices
from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import stream

DIGITS_SIZE, DIGITS_TRAIN = 24, 1297
PHOTO_SIZE, PHOTO_CROPS = 256, 24


class Digits(Images):
    """1,797 grey digits of 8 x 8 px, enlarged bilinearly to ``size`` (24), values / 16, three equal channels.

    Split: the permutation of numpy's ``default_rng(1234)``, its first 1,297 for training and its last 500 for
    testing, in that order. ``mean`` and ``std`` were measured on the training part at 24 px.
    """

    name = "digits"
    classes = tuple("0123456789")
    mean = (0.3051, 0.3051, 0.3051)
    std = (0.3305, 0.3305, 0.3305)

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size = size or DIGITS_SIZE
        self.native_size = (self.size, self.size)
        self._small, self._labels = _load_digits()

    @cached_property
    def _pixels(self) -> Tensor:
        """(1797, 1, size, size), made when the first image is read."""
        small = torch.from_numpy(self._small)[:, None]
        large = F.interpolate(small, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return large.clamp(0, 1)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"digits v1 size={self.size}".encode()).hexdigest()

    def read(self, index: int) -> Tensor:
        return self._pixels[index].repeat(3, 1, 1)

    def read_many(self, indices: np.ndarray) -> Tensor:
        return self._pixels[torch.from_numpy(indices)].repeat(1, 3, 1, 1)

    def splits(self) -> dict[str, Indices]:
        order = np.random.default_rng(1234).permutation(len(self))
        return {"train": order[:DIGITS_TRAIN], "test": order[DIGITS_TRAIN:]}

    def split_note(self) -> str:
        return "fixed split, 1,297 training and 500 test images"


class Photos(Images):
    """24 square crops of two photographs, 256 px, sides of 128 to 427 px of the original; no labels."""

    name = "photos"
    native_size = (PHOTO_SIZE, PHOTO_SIZE)
    notes = ("24 overlapping crops of two photographs: too few for a statement about images in general",)

    def __len__(self) -> int:
        return PHOTO_CROPS

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"photos v1").hexdigest()

    def read(self, index: int) -> Tensor:
        return _photo_crops()[index]

    def read_many(self, indices: np.ndarray) -> Tensor:
        return _photo_crops()[torch.from_numpy(indices)]

    def labels(self, indices: Indices) -> np.ndarray:
        return np.full(len(indices), -1, dtype=np.int64)

    def splits(self) -> dict[str, Indices]:
        raise FdlabError(
            "photos has no training and test part.",
            why="Its crops overlap, so any split would leak.",
            fix="Use photos as it is, or an image folder.",
            code=USAGE,
        )


@lru_cache(maxsize=1)
def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) float32 in [0, 1] and (1797,) int64, from scikit-learn's file.

    Importing scikit-learn takes longer than all that the store needs to know of the digits.
    """
    package = find_spec("sklearn")  # finds the package without importing it
    home = Path(package.origin).parent if package and package.origin else None
    path = home / "datasets" / "data" / "digits.csv.gz" if home else None
    if path is not None and path.is_file():
        table = np.loadtxt(path, delimiter=",")
        images, target = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    else:  # another layout of that package
        from sklearn.datasets import load_digits

        data = load_digits()
        images, target = data.images, data.target
    return (images / 16).astype(np.float32), target.astype(np.int64)


@lru_cache(maxsize=1)
def _photo_crops() -> Tensor:
    """(24, 3, 256, 256) uint8."""
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(p).permute(2, 0, 1) for p in load_sample_images().images]
    crops = []
    for number in range(PHOTO_CROPS):
        photograph = photographs[number % len(photographs)]
        h, w = photograph.shape[-2:]
        u = stream(0, "photos", number).random(3)
        side = round(128 + u[0] * (min(h, w) - 128))
        top, left = round(u[1] * (h - side)), round(u[2] * (w - side))
        crops.append(tv.resized_crop(photograph, top, left, side, side, [PHOTO_SIZE] * 2, antialias=True))
    return torch.stack(crops)
