"""How large the parts are: for one H200, and a tiny form that shows on a CPU that every part runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Args:
        device: ``cuda`` or ``cpu``.
        model: of ``MODELS`` in ``tests/benchmarks/engine.py``; ``depth`` 0 is its own.
        batch: images of a training step of it.
        pixels: image sizes of the attention part, with images and images a pass.
        small_batch: of ViT-Ti/4 on images of 32 px.
        curved: images of a Hessian product.
        repeats: timed calls.
        decoded: JPEGs.
    """

    device: str
    model: str
    depth: int
    batch: int
    pixels: tuple[tuple[int, int, int], ...]
    small_batch: int
    small_images: int
    curved: int
    repeats: int
    decoded: int

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


FULL = Sizes("cuda", "B/16", 0, 256, ((224, 64, 32), (448, 16, 8)), 1024, 50_000, 32, 10, 2048)
TINY = Sizes("cpu", "Ti/4", 1, 2, ((32, 2, 2),), 4, 64, 2, 1, 4)


def wait(sizes: Sizes) -> None:
    """Until the device has done all that it was given."""
    if sizes.cuda:
        torch.cuda.synchronize()


def seconds(sizes: Sizes, call: Callable[[], object], repeats: int = 0, warm: int = 3) -> float:
    """Wall seconds of one call: the shortest of the repeats, each waited for, after ``warm`` calls."""
    best = float("inf")
    for turn in range((warm if sizes.cuda else 1) + (repeats or sizes.repeats)):
        wait(sizes)
        before = time.perf_counter()
        call()
        wait(sizes)
        if turn >= (warm if sizes.cuda else 1):
            best = min(best, time.perf_counter() - before)
    return best


def peak_gb(sizes: Sizes, call: Callable[[], object]) -> float | None:
    """GB of the device that a call holds at most above what was held before; None on a CPU, which does not count."""
    if not sizes.cuda:
        return None
    wait(sizes)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    wait(sizes)
    return (torch.cuda.max_memory_allocated() - before) / 1e9
