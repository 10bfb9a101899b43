"""Which images a training step gets: a pure function of (seed, step), whatever the number of workers.

The order of an epoch is a permutation from (seed, epoch), a view comes from (seed, epoch, index, number of
the view), an endless source gives step ``s`` the indices from ``s * batch`` on. So a run that continues at
any step sees what an uninterrupted one would have seen, and no state of the loader is ever saved.

What is done where: a loader's process decodes, crops and mirrors in 8 bits and hands those over; a GPU turns them into
floats and does the rest (turns, colours), a CPU has it done by the loader's process as well. RandAugment works on one
image after the other, so the loader's process does it for a GPU too. Resident images (``resident.py``) are on the
device, and so is everything but the draws.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import active_children
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fdlab.data.images import ImageSource
from fdlab.data.resident import Resident
from fdlab.data.sending import sent, worker_deaths
from fdlab.data.transforms import NONE, PartialViews, View, begin, draw_views, finish
from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import stream


@dataclass(frozen=True)
class Batch:
    """What one step gets.

    Attributes:
        step: the step, from 0 over the whole run.
        images: one (B, 3, size, size) float32 in [0, 1] a view, on the device; all views show the same images.
        labels: (B,) int64, -1: none.
        indices: (B,) int64, positions in the source.
        targets: (B, classes) shares of the classes, where images were mixed.
    """

    step: int
    images: list[Tensor]
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None

    def part(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop - 1``."""
        targets = None if self.targets is None else self.targets[start:stop]
        images = [view[start:stop] for view in self.images]
        return Batch(self.step, images, self.labels[start:stop], self.indices[start:stop], targets)


@dataclass(frozen=True)
class PartialBatch:
    """What a loader's process hands over of one step; ``Batches.finished`` makes a ``Batch`` of it on the device."""

    step: int
    views: list[PartialViews]
    labels: Tensor
    indices: Tensor

    def pin_memory(self) -> PartialBatch:
        """The same in page-locked memory, which a GPU fetches without waiting; torch's loader calls it."""
        views = [replace(view, images=view.images.pin_memory()) for view in self.views]
        return replace(self, views=views, labels=self.labels.pin_memory(), indices=self.indices.pin_memory())


class Batches:
    """Iterate over the batches of steps ``start`` to ``stop - 1``.

    Args:
        source: the images.
        size: pixels of the square output.
        batch: images a step, over all ranks.
        seed: of the order and the views.
        view: how views are drawn; None: the evaluation transform.
        views: how many differently drawn views of each image.
        start, stop: first step, and the one after the last.
        workers: processes that prepare batches; 0: this one. Never changes what comes out.
        drop_last: leave out the incomplete batch at the end of an epoch.
        part: (rank, ranks): take only this slice of each batch.
        device: where the batches are wanted.
        resident: the source's images on that device; ``workers`` then only draw. Never changes what comes out.

    Raises:
        FdlabError: 2 for a batch larger than the data; 3 when more than half of it is unreadable;
            1 when a worker dies.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        size: int,
        batch: int,
        seed: int,
        view: View | None = None,
        views: int = 1,
        start: int = 0,
        stop: int,
        workers: int = 0,
        drop_last: bool = True,
        part: tuple[int, int] = (0, 1),
        device: str = "cpu",
        resident: Resident | None = None,
    ) -> None:
        if batch < 1 or (drop_last and batch > len(source)):
            raise FdlabError(
                f"The batch of {batch} does not fit the {len(source)} images of {source.spec}.",
                fix=f"Set the batch to at most {len(source)}, or name more data.",
                code=USAGE,
            )
        if batch % part[1] or (part[1] > 1 and not drop_last):
            raise FdlabError(
                f"Batches of {batch} cannot be shared by {part[1]} ranks.",
                fix=f"Use a multiple of {part[1]} and whole batches (drop_last).",
                code=USAGE,
            )
        self.source, self.size, self.batch, self.seed = source, size, batch, seed
        self.view, self.views, self.start, self.stop = view or NONE, views, start, stop
        self.workers, self.drop_last, self.part = workers, drop_last, part
        self.device, self.resident, self.draws_only = torch.device(device), resident, resident is not None
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    @property
    def steps_per_epoch(self) -> int | None:
        """None for an endless source."""
        if self.source.endless:
            return None
        whole, rest = divmod(len(self.source), self.batch)
        return whole + (1 if rest and not self.drop_last else 0)

    def positions(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, positions in the source) of one step's whole batch."""
        if self.source.endless:
            return 0, np.arange(step * self.batch, (step + 1) * self.batch)
        epoch, place = divmod(step, self.steps_per_epoch or 1)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, stream(self.seed, "order", epoch).permutation(len(self.source))
        return epoch, self._order[1][place * self.batch : (place + 1) * self.batch]

    def load(self, step: int) -> Batch:
        """The batch of one step, on the device."""
        return self.finished(self.prepare(step))

    def prepare(self, step: int) -> PartialBatch:
        """The part of one step's batch that a loader's process makes."""
        epoch, positions = self.positions(step)
        rank, ranks = self.part
        share = -(-len(positions) // ranks)
        positions = positions[rank * share : (rank + 1) * share]
        all_draws = []
        for number in range(self.views):
            counters = [(epoch, int(p), number) for p in positions]
            all_draws.append(draw_views(self.view, self.seed, counters, self.size))
        if self.draws_only:
            places = torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64))
            return PartialBatch(step, [PartialViews(torch.empty(0), draws) for draws in all_draws], places, places)
        stored, views = self.source.gather(positions), []
        for draws in all_draws:
            view = begin(stored.images, self.view, draws, self.size, direct=self.source.direct)
            if view.draws is not None and (self.device.type == "cpu" or view.draws.policies):
                view = PartialViews(finish(view, self.view, self.size), None)
            views.append(view)
        return PartialBatch(step, views, stored.labels, stored.indices)

    def finished(self, partial: PartialBatch) -> Batch:
        """The batch on the device, where what is left to do is done."""
        if self.resident is not None:
            images, labels, indices = self.resident.gather(partial.indices)
            views = [replace(view, images=images) for view in partial.views]
            partial = PartialBatch(partial.step, views, labels, indices)
        views = [replace(view, images=sent(view.images, self.device)) for view in partial.views]
        done = [finish(view, self.view, self.size) for view in views]
        return Batch(partial.step, done, sent(partial.labels, self.device), sent(partial.indices, self.device))

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers or not len(self):
            yield from (self.load(step) for step in range(self.start, self.stop))
            return
        away = copy.copy(self)
        away.resident = None  # a process makes the draws alone: it must not get a copy of the device's images
        # With a generator of its own the loader does not draw its base seed from torch's global one.
        loader: Any = DataLoader(
            _Steps(away),
            batch_size=None,
            num_workers=min(self.workers, max(1, len(self))),
            collate_fn=as_it_is,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        before = set(active_children())
        items = iter(loader)
        with worker_deaths(set(active_children()) - before):
            for item, unreadable in items:
                if isinstance(item, FdlabError):
                    raise item
                self.source.learn(unreadable)
                yield self.finished(item)


class _Steps(Dataset):
    """Steps as a data set, so that a worker makes whole batches."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> tuple[PartialBatch | FdlabError, dict[int, str]]:
        try:
            batch = self.batches.prepare(self.batches.start + place)
        except FdlabError as error:  # handed over whole: raised here, it would come out as a traceback
            return error, {}
        return batch, self.batches.source.unreadable()


def as_it_is(item: Any) -> Any:
    """A loader's item is a whole batch already."""
    return item
