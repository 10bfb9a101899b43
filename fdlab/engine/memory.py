"""What to do when memory ran out: the largest part of the batch that fits, found by trying."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fdlab.engine.shares import equal_shares, sharing
from fdlab.engine.trainable import Trainable
from fdlab.errors import OUT_OF_SPACE, FdlabError


def largest_part(task: Trainable, batches: Callable[[int], Iterable[Any]], batch: int, parts: int) -> int:
    """The largest halving of ``batch / parts`` images whose loss and gradient fit; 0: not even one image does.

    The optimiser's state is not there yet, or no longer: a part that only just fits may still fail.
    """
    whole = next(iter(batches(0)))
    while True:
        parts *= 2
        if batch % parts or parts > batch:
            return 0
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        share = equal_shares(batch, parts)[0]
        assert share is not None
        try:
            with sharing(share):
                task.step(whole.part(share.start, share.stop), 0)[0].backward()
            return len(share)
        except torch.OutOfMemoryError:
            continue
        finally:
            task.module.zero_grad(set_to_none=True)


def out_of_memory(batch: int, parts: int, fits: int, couples: bool) -> FdlabError:
    """The error that names what fits.

    Args:
        batch: images a step. parts: in how many parts a process computed it.
        fits: images a part that were seen to fit; 0: unknown or none.
        couples: the batch cannot be computed in parts.
    """
    smaller = f"--set run.batch={fits or max(batch // 2, 1)} in a new folder"
    in_parts = f"--set run.accumulate={batch // fits} (the same numbers)" if fits and not couples else ""
    return FdlabError(
        f"Out of memory with {batch // parts} images at once (batch {batch}).",
        why=f"{fits} images at once fit. The last checkpoint is untouched."
        if fits
        else "The last checkpoint is untouched.",
        fix=f"Try {' or '.join(filter(None, (in_parts, smaller)))}, or run.checkpoint_blocks=true.",
        code=OUT_OF_SPACE,
    )
