"""Every random number is a function of (seed, purpose, counters), never of what ran before.

``stream(seed, "order", epoch)`` and ``seed_for(seed, "step", step)`` give the same numbers whatever
the number of workers, and after any interruption: this is what makes a resumed run equal.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy


def seed_for(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for this purpose, e.g. ``seed_for(0, "step", 17)``."""
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *counters: int) -> numpy.random.Generator:
    """A fresh numpy generator for this purpose."""
    from numpy.random import PCG64, Generator

    return Generator(PCG64(seed_for(seed, purpose, *counters)))
