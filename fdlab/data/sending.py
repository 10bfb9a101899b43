"""From the loader's processes to a device: tensors travel without waiting, and a process that dies is reported."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from fdlab.errors import FAILED, OUT_OF_SPACE, FdlabError

# Words of torch's error about a loader process that was killed.
SIGNS = ("exited unexpectedly", "is killed by signal")
# Signals of a fault of a program; a system that is short of memory kills, and torch says so or knows no reason.
FAULTS = ("Segmentation", "Abort", "Illegal", "Floating", "Terminated", "Hangup")
UNTIL_REPORTED = 2.0  # seconds, far more than a signal takes


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on the device, without waiting for it: a GPU fetches it from page-locked memory."""
    target = torch.device(device)
    if target.type != "cuda" or tensor.is_cuda:
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


@contextmanager
def worker_deaths(workers: Iterable[BaseProcess] = ()) -> Iterator[None]:
    """Stands around everything that happens while loaders run: torch reports a death wherever the program is then.

    Args:
        workers: the processes of a loader whose batches are fetched inside.

    Raises:
        FdlabError: code 4, or 1 where a signal tells of a fault or a request: a loader's process has died.
    """
    try:
        try:
            yield
        except (ConnectionError, EOFError) as error:
            # A batch is fetched over a socket of the process that made it. Where that process is dead, torch's report
            # follows: its signal handler raises in here. Unawaited, it would raise while the interpreter ends.
            time.sleep(UNTIL_REPORTED)
            if all(worker.is_alive() for worker in workers):
                raise
            raise _death("It was killed while a batch was fetched from it.") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or not any(sign in str(error) for sign in SIGNS):
            raise
        raise _death(str(error).splitlines()[0].strip()) from error


def _death(why: str) -> FdlabError:
    return FdlabError(
        "A process that prepares batches has died.",
        why=why,
        fix="Usually memory ran out: use fewer workers (run.workers=0: none) or a smaller batch. "
        "The same command goes on from the last checkpoint.",
        code=FAILED if any(fault in why for fault in FAULTS) else OUT_OF_SPACE,
    )
