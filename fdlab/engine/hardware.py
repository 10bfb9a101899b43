"""What a run asks of its device: what it cannot do there, bitwise equal runs, and how fast it is at most."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fdlab.engine.settings import Recipe
from fdlab.errors import USAGE, FdlabError

SIDES = {"cuda": 4096, "mps": 2048, "cpu": 512}  # of the matrices whose product is timed


def check_device(recipe: Recipe, device: str, ranks: int) -> None:
    """Refuses what the device cannot do.

    Raises:
        FdlabError: code 2.
    """
    kind = torch.device(device).type
    faults = {
        "run.strategy=fsdp": recipe.run.strategy == "fsdp",
        "several processes (torchrun)": ranks > 1,
        "run.compile": recipe.run.compile,
        "run.deterministic": recipe.run.deterministic,
    }
    if kind == "mps" and (wrong := [name for name, on in faults.items() if on]):
        raise FdlabError(
            f"Apple's GPU cannot be used with {', '.join(wrong)}.",
            why="torch has no collectives, no stable compiler and no deterministic mode for it.",
            fix="Leave them out, or use run.device=cpu.",
            code=USAGE,
        )


@contextmanager
def determinism(on: bool) -> Iterator[None]:
    """Where ``on``, the same run gives the same bits on a GPU too: deterministic kernels only, and slower attention.

    The fused kernel that returns a bias's gradient adds it up in no fixed order, so attention is written out there.
    """
    if not on:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@lru_cache(maxsize=8)
def peak(device: str, low: bool) -> float:
    """FLOP/s of the device's best matrix product in the run's precision: the fastest of five, measured once a process.

    Args:
        low: bfloat16, else float32.
    """
    target = torch.device(device)
    side = SIDES[target.type]
    kind = torch.bfloat16 if low else torch.float32
    generator = torch.Generator(target).manual_seed(0)  # random numbers: a GPU multiplies constant ones faster
    factor = torch.randn(side, side, device=target, generator=generator).to(kind)
    out, products = torch.empty_like(factor), 1 if target.type == "cpu" else 20
    best = float("inf")
    for _ in range(6):  # the first one warms up
        _wait(target)
        before = time.perf_counter()
        for _ in range(products):
            torch.mm(factor, factor, out=out)
        _wait(target)
        best = min(best, (time.perf_counter() - before) / products)
    return 2 * side**3 / best


def most_memory() -> int:
    """Bytes held at most so far: of the GPU where one is used, else of this process."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if torch.backends.mps.is_available():
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # no such count on this system
        return 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def queued_work() -> torch.cuda.Event | None:
    """What a GPU was given so far: ``query()`` tells, without waiting, whether it is done. None: no GPU is used."""
    if not torch.cuda.is_initialized():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
