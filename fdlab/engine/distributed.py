"""One run on many processes: who is first, what is summed, which samples are mine.

``torchrun --nproc-per-node N -m fdlab distill ...`` starts N ranks; without torchrun there is one, and nothing
here does anything. Small things (flags, counts, losses on a CPU) travel by gloo, tensors of GPUs by NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fdlab.data.loader import Batch
from fdlab.engine.shares import Share, equal_shares
from fdlab.errors import FAILED, FdlabError

T = TypeVar("T")
PATIENCE = "FDLAB_RANK_TIMEOUT"  # seconds that a rank waits for the others


@dataclass(frozen=True)
class Ranks:
    """This process's place among ``ranks``; rank 0 alone writes files and prints."""

    rank: int = 0
    ranks: int = 1

    @property
    def leader(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.ranks == 1

    def shares(self, total: int, parts: int) -> list[Share | None]:
        """This rank's micro-batches of a global batch of ``total``, each of ``total / (ranks * parts)`` samples."""
        shares = equal_shares(total, parts * self.ranks)
        return shares[self.rank * parts : (self.rank + 1) * parts]

    def part_of(self, batch: Any, share: Share | None, total: int) -> Any:
        """The samples of ``share`` in a batch that holds this rank's slice of ``total`` samples."""
        if share is None:
            return batch
        before = self.rank * (total // self.ranks)
        return batch.part(share.start - before, share.stop - before)

    def turns(self, count: int, size: int) -> Iterator[range]:
        """This rank's pieces of ``range(count)``, each position in one piece of one rank.

        Every rank gets equally many pieces, since ranks meet after each; so the last may be empty.

        >>> list(Ranks(rank=1, ranks=2).turns(10, 3))
        [range(3, 6), range(9, 10)]
        """
        rounds = -(-count // (size * self.ranks))
        for turn in range(rounds):
            start = min((turn * self.ranks + self.rank) * size, count)
            yield range(start, min(start + size, count))

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over the ranks of scalars, without waiting for a device."""
        if self.alone:
            return values
        names = sorted(values)
        stacked = torch.stack([values[name].detach().double() for name in names])
        dist.all_reduce(stacked)
        return dict(zip(names, stacked / self.ranks, strict=True))

    def total(self, *numbers: float) -> list[float]:
        """Sums over the ranks."""
        if self.alone:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if not self.alone:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.alone else self.total(float(flag))[0] > 0

    def first(self, act: Callable[[], T]) -> T | None:
        """Rank 0 calls ``act``, the others wait; an FdlabError of rank 0 is raised on all."""
        if self.alone:
            return act()
        result, faults = None, [None]
        if self.leader:
            try:
                result = act()
            except FdlabError as error:
                faults = [error]  # type: ignore[list-item]
        dist.broadcast_object_list(faults)
        if faults[0] is not None:
            raise faults[0]
        return result

    def told(self, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def together(self, batch: Batch) -> Batch:
        """The global batch from the ranks' slices, for what mixes the images of a batch."""
        if self.alone:
            return batch

        def joined(mine: Tensor) -> Tensor:
            parts = [torch.empty_like(mine) for _ in range(self.ranks)]
            dist.all_gather(parts, mine.contiguous())
            return torch.cat(parts)

        images = [joined(view) for view in batch.images]
        return replace(batch, images=images, labels=joined(batch.labels), indices=joined(batch.indices))

    def mine(self, batch: Batch) -> Batch:
        """This rank's slice of a global batch."""
        if self.alone:
            return batch
        size = len(batch.labels) // self.ranks
        return batch.part(self.rank * size, (self.rank + 1) * size)


def current() -> Ranks:
    """The ranks of the run in progress."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


def is_leader() -> bool:
    """Whether this process prints; also before and after the ranks have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def launched(device: str) -> Iterator[str]:
    """Meets the other ranks where torchrun started this process; yields this rank's device.

    Raises:
        FdlabError: another rank has died or does not answer.
    """
    if not _by_torchrun() or dist.is_initialized():
        yield device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    patience = timedelta(seconds=float(os.environ.get(PATIENCE, "1800")))
    dist.init_process_group(backend, timeout=patience)
    try:
        yield device
    except (dist.DistError, RuntimeError) as error:
        if not _lost(error):
            raise
        raise FdlabError(
            "Another rank has died or does not answer.",
            why=str(error).splitlines()[0][:200],
            fix="All ranks stop. Give the same command again: it continues from the last checkpoint.",
            code=FAILED,
        ) from None
    finally:
        dist.destroy_process_group()


def _by_torchrun() -> bool:
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")) and dist.is_available()


def _lost(error: Exception) -> bool:
    signs = ("Connection closed by peer", "Connection reset", "Timed out waiting", "Broken pipe", "gloo", "NCCL")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)
