"""From the loader's processes to a device: tensors travel without waiting, and a process that dies is reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fdlab.errors import FdlabError

# Words of torch's error about a loader process that was killed.
SIGNS = ("exited unexpectedly", "is killed by signal")


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on the device, without waiting for it: a GPU fetches it from page-locked memory."""
    target = torch.device(device)
    if target.type != "cuda" or tensor.is_cuda:
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Stands around everything that happens while loaders run: torch reports a death wherever the program is then.

    Raises:
        FdlabError: code 1, a loader's process has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or not any(sign in str(error) for sign in SIGNS):
            raise
        raise FdlabError(
            "A process that prepares batches has died.",
            why=str(error).splitlines()[0].strip(),
            fix="Usually memory ran out: use fewer workers (run.workers=0: none) or a smaller batch. "
            "The same command goes on from the last checkpoint.",
        ) from error
