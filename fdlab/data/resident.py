"""Small data on the training device: all images as stored, so that a batch is an index and nothing is copied.

Whether images are resident changes no number: the same draws crop and flip the same pixels, there in one batched
resampling. It is for images of one size that need not be made smaller, up to ``LARGEST`` bytes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fdlab.data.images import SMALL, ImageSource
from fdlab.data.sending import sent
from fdlab.data.transforms import NONE, View
from fdlab.errors import USAGE, FdlabError

Choice = Literal["auto", "on", "off"]
LARGEST = 4 << 30  # bytes
SHARE = 0.25  # of a GPU's free memory
PIECE = 1024  # images read at once


class Resident:
    """All images of a source on a device.

    Attributes:
        images: (n, 3, h, w), as stored (uint8, or float32 in [0, 1]).
        labels, indices: (n,) int64; an unreadable image has its replacement's.
    """

    def __init__(self, source: ImageSource, device: str) -> None:
        count, self.device = len(source), torch.device(device)
        first = source.gather(np.arange(1)).images[0]  # its size and type are those of all
        self.images = torch.empty((count, *first.shape), dtype=first.dtype, device=self.device)
        self.labels = torch.empty(count, dtype=torch.int64, device=self.device)
        self.indices = torch.empty_like(self.labels)
        for start in range(0, count, PIECE):
            piece = source.gather(np.arange(start, min(start + PIECE, count)))
            assert isinstance(piece.images, Tensor)
            place = slice(start, start + len(piece.labels))
            self.images[place], self.labels[place], self.indices[place] = piece.images, piece.labels, piece.indices

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, h, w), labels and indices of positions (B,) int64, as ``ImageSource.gather``; on the device."""
        place = sent(positions, self.device)
        return self.images[place], self.labels[place], self.indices[place]


def resident(choice: Choice, source: ImageSource, *, size: int, device: str, view: View = NONE) -> Resident | None:
    """The source on the device, where the setting ``data.resident`` wants it and it can be.

    ``auto``: on a GPU whenever it fits, never on a CPU, whose memory the images are read from anyway.

    Raises:
        FdlabError: code 2, ``on`` and it cannot be.
    """
    kind = torch.device(device).type
    if choice == "off" or (choice == "auto" and kind == "cpu"):
        return None
    reason = obstacle(source, size=size, device=device, view=view)
    if reason and choice == "on":
        raise FdlabError(
            f"The images of {source.spec} cannot live on {device}.",
            why=reason,
            fix="Set data.resident=auto.",
            code=USAGE,
        )
    return None if reason else Resident(source, device)


def obstacle(source: ImageSource, *, size: int, device: str, view: View = NONE) -> str:
    """Why these images cannot be resident; empty where they can."""
    if view.randaugment and torch.device(device).type != "cpu":
        return "RandAugment works on one image after the other: loader processes (run.workers) do it, and no GPU."
    native = source.native_size
    if source.endless:
        return "They are endless: each is made when it is asked for."
    if native is None or max(native) > SMALL or max(native) > size:
        return f"They are not all of one size of at most {min(size, SMALL)} px."
    first = source.gather(np.arange(1)).images
    wanted = len(source) * first[0].numel() * first[0].element_size()
    room = LARGEST
    if torch.device(device).type == "cuda":
        room = min(LARGEST, int(SHARE * torch.cuda.mem_get_info(device)[0]))
    return f"They need {wanted / 1e9:.1f} GB, and {room / 1e9:.1f} GB are for them." if wanted > room else ""
