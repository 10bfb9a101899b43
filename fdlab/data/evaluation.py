"""Images for evaluation, piece by piece and in order, decoded by loader processes where there are some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fdlab.data.images import ImageSource
from fdlab.data.loader import as_it_is
from fdlab.data.sending import sent, worker_deaths
from fdlab.data.transforms import to_float
from fdlab.errors import FdlabError

Piece = tuple[Tensor, Tensor]


def stacked(
    source: ImageSource, pieces: Iterable[range], size: int, *, workers: int = 0, device: str = "cpu"
) -> Iterator[Piece]:
    """What ``source.stack`` gives for each piece of positions: float32 images in [0, 1] and labels.

    Args:
        workers: processes that decode; 0: this one. Never changes what comes out.
        device: where the images are wanted; they travel as 8 bits. The labels stay on the CPU.

    Raises:
        FdlabError: as ``ImageSource.stack``; code 1 when a process dies.
    """
    wanted = list(pieces)
    loader: Any = DataLoader(
        _Pieces(source, wanted, size),
        batch_size=None,
        num_workers=min(workers, len(wanted)),
        collate_fn=as_it_is,
        generator=torch.Generator(),  # an own one: the loader draws its base seed from it
        pin_memory=bool(workers) and torch.device(device).type == "cuda",
    )
    with worker_deaths():
        for item, unreadable in loader:
            if isinstance(item, FdlabError):
                raise item
            source.learn(unreadable)
            images, labels = item
            yield to_float(sent(images, device)), labels


class _Pieces(Dataset):
    """Pieces as a data set, so that a worker makes whole ones."""

    def __init__(self, source: ImageSource, pieces: list[range], size: int) -> None:
        self.source, self.pieces, self.size = source, pieces, size

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, place: int) -> tuple[Piece | FdlabError, dict[int, str]]:
        try:
            piece = self.source.stack(self.pieces[place], self.size, as_stored=True)
        except FdlabError as error:  # handed over whole: raised here, it would come out as a traceback
            return error, {}
        return piece, self.source.unreadable()
