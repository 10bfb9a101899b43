"""What every kind of image data answers (``Images``), and a selection of it (``ImageSource``).

An unreadable image never stops a run: in training the next readable one takes its place, in
evaluation it is left out, and both are counted. More than half unreadable is an error.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdlab.data.decode import Unreadable, span_of
from fdlab.data.depth import Range, note_on_range
from fdlab.data.transforms import fitted, to_float
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.randomness import stream

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 96  # images of one size up to this side are handled as one tensor
Indices = range | np.ndarray
Three = tuple[float, float, float]


class Images:
    """One kind of image data, whole. Subclasses give ``read``, ``digest`` and ``_labels``.

    ``_labels`` is (n,) int64, -1 where an image has none; ``_parts`` the numbers of images of a training and a test
    part, where the data has both, training images first. What has no list of labels overrides ``__len__`` and
    ``labels``.
    """

    name: str = ""
    classes: tuple[str, ...] | None = None
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD
    native_size: tuple[int, int] | None = None  # (h, w) when all images share it
    endless: bool = False
    notes: tuple[str, ...] = ()  # what a reader of a result must know about these images

    _labels: np.ndarray
    _parts: Sequence[int] = ()
    _parts_note = "the data's own parts"

    value_range: Range | None = None  # which values of images of more than 8 bits are black and white
    deep = False  # whether images of more than 8 bits were seen
    unlabelled: str = ""  # why some of these images have no labels, where others have

    def __init__(self) -> None:
        self.unreadable: dict[int, str] = {}

    def samples(self) -> list[Callable[[], bytes]]:
        """Readers of the bytes of at most 16 images, evenly spaced; empty for what is no files. They may raise."""
        return []

    def with_range(self, value_range: Range | None) -> None:
        """Sets ``value_range``, and adds a note where deep images use little of their range."""
        self.value_range = value_range
        found = []
        for read in self.samples():
            with contextlib.suppress(Unreadable, OSError):
                if (span := span_of(read(), value_range)) is not None:
                    found.append(span)
        self.deep = bool(found)
        if note := note_on_range(found, value_range):
            self.notes = (*self.notes, note)
        if value_range:
            self.notes = (*self.notes, f"values {value_range[0]:g} to {value_range[1]:g} are black to white")

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def digest(self) -> str:
        """sha256 that names these images."""
        raise NotImplementedError

    def read(self, index: int) -> Tensor:
        """(3, h, w), uint8 or float32 in [0, 1]. Raises Unreadable."""
        raise NotImplementedError

    def read_many(self, indices: np.ndarray) -> Tensor | None:
        """(B, 3, h, w) at once, or None when images are read one by one."""
        return None

    def labels(self, indices: Indices) -> np.ndarray:
        """(B,) int64, -1 where there is none."""
        return self._labels[np.asarray(indices, dtype=np.int64)]

    def splits(self) -> dict[str, Indices]:
        """Indices of ``train`` and ``test``: the data's own parts, else 80/20 by one fixed permutation.

        Raises:
            FdlabError: these images cannot be split honestly.
        """
        if len(self._parts) == 2:
            return {"train": range(self._parts[0]), "test": range(self._parts[0], len(self))}
        order = stream(0, "split", len(self)).permutation(len(self))
        held_out = max(1, round(0.2 * len(self)))
        return {"train": np.sort(order[held_out:]), "test": np.sort(order[:held_out])}

    def split_note(self) -> str:
        """How ``splits`` divides the images, for the notes of a result."""
        if len(self._parts) == 2:
            return self._parts_note
        return "fixed 80/20 split by a permutation of the file order (the data has no split of its own)"


@dataclass(frozen=True)
class StoredImages:
    """Images for training: one tensor (B, 3, h, w) where sizes agree and are small, else a list."""

    images: Tensor | list[Tensor]
    labels: Tensor
    indices: Tensor


class ImageSource:
    """A selection of images: (image, label) by position, and what identifies them.

    Positions run from 0 to len - 1 and are the ``index`` of everything in training. An endless source
    has 2^31 of them, each drawn when asked for.
    """

    def __init__(self, images: Images, spec: str, indices: Indices | None = None, notes: tuple[str, ...] = ()) -> None:
        self._images, self.spec = images, spec
        self._indices: Indices = range(len(images)) if indices is None else _compact(indices)
        self.notes = images.notes + notes

    def __len__(self) -> int:
        return len(self._indices)

    def __repr__(self) -> str:
        count = "endless" if self.endless else f"{len(self)} images"
        return f"ImageSource({self.spec!r}, {count})"

    @property
    def name(self) -> str:
        return self._images.name

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._images.classes

    @property
    def mean(self) -> Three:
        return self._images.mean

    @property
    def std(self) -> Three:
        return self._images.std

    @property
    def native_size(self) -> tuple[int, int] | None:
        """(h, w) when all images share one size; for files judged by 16 of them."""
        return self._images.native_size

    @property
    def unlabelled(self) -> str:
        """Why some of these images have no labels, where others have; else empty."""
        return self._images.unlabelled

    def numbered_as(self, classes: tuple[str, ...]) -> ImageSource:
        """The same images with these classes, of which theirs are some: labels count in ``classes``."""
        if self.classes is None or self.classes == classes:
            return self
        images = copy.copy(self._images)
        place = np.array([classes.index(name) for name in self.classes], dtype=np.int64)
        labels = self._images._labels
        images.classes, images._labels = classes, np.where(labels < 0, labels, place[labels])
        return ImageSource(images, self.spec, self._indices, self.notes[len(self._images.notes) :])

    @property
    def endless(self) -> bool:
        return self._images.endless and len(self) >= 2**31

    @property
    def own_parts(self) -> bool:
        """Whether the data has a training and a test part of its own."""
        return len(self._images._parts) == 2

    @property
    def skipped(self) -> int:
        """How many of these images were found unreadable so far."""
        bad = self._images.unreadable
        if isinstance(self._indices, range):
            return sum(index in self._indices for index in bad)
        return int(np.isin(np.fromiter(bad, dtype=np.int64, count=len(bad)), self._indices).sum())

    def say_what_is_left_out(self) -> None:
        """Warns of images that were found unreadable, and of the notes of the data."""
        for note in self._images.notes:
            warnings.warn(f"{self.spec}: {note}", stacklevel=2)
        if count := self.skipped:
            warnings.warn(f"{count} of {len(self)} images of {self.spec} could not be read: left out", stacklevel=2)

    @property
    def digest(self) -> str:
        """sha256 of the images' own digest and of which of them are taken."""
        which = repr(self._indices) if isinstance(self._indices, range) else self._indices.tobytes()
        content = which.encode() if isinstance(which, str) else which
        if self._images.value_range or self._images.deep:  # which values are black and white is part of the pixels
            content += f"|range {self._images.value_range or 'of the bit depth'}".encode()
        return hashlib.sha256(self._images.digest.encode() + b"|" + content).hexdigest()

    @property
    def preprocessing(self) -> str:
        """What ``stack`` does, in words; part of a measurement's question."""
        if self.direct:
            return "resized to the model's size, bilinear, antialias"
        return "short side to 256/224 of the model's size, long side rounded down, centre crop, bilinear, antialias"

    @property
    def direct(self) -> bool:
        """All images are squares of one size, so they are resized without a crop."""
        native = self.native_size
        return native is not None and native[0] == native[1]

    def shared_with(self, other: ImageSource) -> int:
        """How many images the two selections have in common (0 for different data)."""
        if self._images.digest != other._images.digest:
            return 0
        a, b = self._indices, other._indices
        if isinstance(a, range) and isinstance(b, range) and a.step == b.step == 1:
            return max(0, min(a.stop, b.stop) - max(a.start, b.start))
        return len(np.intersect1d(np.asarray(a), np.asarray(b)))

    def image(self, position: int) -> Tensor:
        """(3, h, w), uint8 or float32 in [0, 1], as stored. Raises FdlabError when unreadable."""
        try:
            return self._read(position)
        except Unreadable as error:
            raise FdlabError(
                f"Image {position} of {self.spec} cannot be read.",
                why=str(error),
                fix="Remove the file.",
                code=NOT_UNDERSTOOD,
            ) from error

    def label(self, position: int) -> int:
        """The class number, -1 where there is none."""
        return int(self._images.labels(self._at([position]))[0])

    def labels(self) -> np.ndarray:
        """(len,) int64, -1 where there is none. Raises FdlabError (2) for an endless source."""
        if self.endless:
            raise FdlabError(
                f"{self.spec} is endless: it has no list of labels.",
                fix=f"Take a part: {self.spec}[:1024].",
                code=USAGE,
            )
        return self._images.labels(self._indices)

    def subset(self, positions: Sequence[int] | np.ndarray) -> ImageSource:
        """These positions, in this order."""
        return ImageSource(self._images, self.spec, self._at(positions), self.notes[len(self._images.notes) :])

    def sample(self, count: int, seed: int = 0) -> ImageSource:
        """``count`` images at random without repeats (all, when there are fewer); endless: the first."""
        if self.endless:
            return self.subset(range(count))
        if count >= len(self):
            return self
        return self.subset(stream(seed, "sample").permutation(len(self))[:count])

    def stack(
        self, positions: Sequence[int] | np.ndarray, size: int, *, as_stored: bool = False, direct: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images for evaluation: (B, 3, size, size) float32 in [0, 1] and labels (B,) int64.

        ``preprocessing`` says what is done, unless ``direct`` decides; images smaller than ``size`` are enlarged.
        Unreadable images are left out and counted in ``skipped``. ``as_stored`` leaves 8 bits 8 bits.

        Raises:
            FdlabError (3): more than half of the source was found unreadable.
        """
        indices = self._at(positions)
        if not len(indices):
            return torch.zeros(0, 3, size, size), torch.zeros(0, dtype=torch.int64)
        labels = torch.from_numpy(self._images.labels(indices))
        whole = self._images.read_many(indices)
        last = (lambda images: images) if as_stored else to_float
        direct = self.direct if direct is None else direct
        if whole is not None:
            return last(fitted(whole, size, direct=direct)), labels
        kept, readable = [], []
        for place, position in enumerate(positions):
            try:
                readable.append(fitted(self._read(int(position)), size, direct=direct))
                kept.append(place)
            except Unreadable:
                continue
        if 2 * self.skipped > len(self):
            raise self._too_many(self.skipped, len(self))
        if len({image.dtype for image in readable}) > 1:
            readable = [to_float(image) for image in readable]
        return last((torch.stack(readable) if readable else torch.zeros(0, 3, size, size)).contiguous()), labels[kept]

    def gather(self, positions: np.ndarray) -> StoredImages:
        """Images for training, as stored. An unreadable one is replaced by the next readable position.

        Raises:
            FdlabError (3): more than half of the source is unreadable.
        """
        indices = self._at(positions)
        whole = self._images.read_many(indices)
        taken = np.asarray(positions, dtype=np.int64)
        images: Tensor | list[Tensor]
        if whole is not None:
            images = whole
        else:
            pairs = [self._next_readable(int(position)) for position in positions]
            taken = np.array([position for position, _ in pairs], dtype=np.int64)
            images = self._unify([image for _, image in pairs])
        labels = self._images.labels(self._at(taken))
        return StoredImages(images, torch.from_numpy(labels), torch.from_numpy(taken))

    def unreadable(self) -> dict[int, str]:
        """Why images could not be read so far, by number in the data; workers hand theirs over with ``learn``."""
        return dict(self._images.unreadable)

    def readable(self, positions: Sequence[int] | range) -> list[int]:
        """Those positions that were not found unreadable so far, in order."""
        bad = self._images.unreadable
        return [int(p) for p, index in zip(positions, self._at(positions), strict=True) if int(index) not in bad]

    def learn(self, unreadable: dict[int, str]) -> None:
        """Takes over what a loader's process could not read."""
        self._images.unreadable.update(unreadable)

    def _at(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        chosen = np.asarray(positions, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"position outside of the {len(self)} images of {self.spec}")
        if isinstance(self._indices, np.ndarray):
            return self._indices[chosen]
        return chosen * self._indices.step + self._indices.start

    def _read(self, position: int) -> Tensor:
        index = int(self._at([position])[0])
        bad = self._images.unreadable
        if index in bad:
            raise Unreadable(bad[index])
        try:
            return self._images.read(index)
        except Unreadable as error:
            bad[index] = str(error)
            raise

    def _next_readable(self, position: int) -> tuple[int, Tensor]:
        for place in range(position, position + len(self)):
            try:
                return place % len(self), self._read(place % len(self))
            except Unreadable:
                if 2 * self.skipped > len(self):
                    break
        raise self._too_many(self.skipped, len(self))

    def _unify(self, images: list[Tensor]) -> Tensor | list[Tensor]:
        native = self.native_size
        if native is None or max(native) > SMALL:
            return images
        # native_size was judged by a few files: an odd one out is brought to it
        h, w = native
        return torch.stack(
            [i if i.shape[1:] == native else fitted(i, max(h, w), direct=True)[:, :h, :w] for i in images]
        )

    def _too_many(self, bad: int, of: int) -> FdlabError:
        reasons = list(self._images.unreadable.values())
        return FdlabError(
            f"{bad} of {of} images of {self.spec} cannot be read.",
            why=f"The first reason: {reasons[0]}" if reasons else "",
            fix="Check that these are image files and complete.",
            code=NOT_UNDERSTOOD,
        )


def _compact(indices: Indices) -> Indices:
    """A run of consecutive numbers as a range, so that equal selections have equal digests."""
    if isinstance(indices, range):
        return indices
    array = np.ascontiguousarray(indices, dtype=np.int64)
    if len(array) and (len(array) == 1 or (np.diff(array) == 1).all()):
        return range(int(array[0]), int(array[-1]) + 1)
    return array
