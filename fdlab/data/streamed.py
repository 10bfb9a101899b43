"""Images and labels that are read in slices, when a slice is asked for: what a probe sees of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fdlab.data.images import ImageSource


class Streamed:
    """Images that are read when a slice of them is asked for, so that memory does not grow with their number.

    Looks like an (n, 3, H, W) tensor to a probe; a slice leaves out what cannot be read. Rectangles are cut from
    the middle of the square whose side is the longer one.
    """

    def __init__(self, source: ImageSource, size: tuple[int, int]) -> None:
        self.source, self.shape = source, (len(source), 3, *size)
        self._answers: dict[range, Tensor] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Tensor:
        places = range(len(self))[part]
        height, width = self.shape[-2:]
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        images, self._answers[places] = self.source.stack(places, side)
        return images[..., top : top + height, left : left + width]

    def answers(self, part: slice) -> Tensor:
        """(b,) int64: the labels of exactly the images that this slice gives."""
        places = range(len(self))[part]
        if places not in self._answers:
            self[part]  # which of them can be read is known once they were
        return self._answers[places]


class Labels:
    """The labels of ``Streamed`` images, in slices of it: (n,) int64, without those of unreadable images."""

    def __init__(self, images: Streamed) -> None:
        self._images, self.shape = images, (len(images),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Tensor:
        return self._images.answers(part)
