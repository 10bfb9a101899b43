"""Every random number is a function of (seed, purpose, counters), never of what ran before.

``stream(seed, "order", epoch)`` and ``seed_for(seed, "step", step)`` give the same numbers whatever
the number of workers, and after any interruption: this is what makes a resumed run equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


def seed_for(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for this purpose: the first 8 bytes of blake2b over the text ``seed/purpose/counters``.

    >>> seed_for(0, "step", 17) == seed_for(0, "step", 18)
    False
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *counters: int) -> numpy.random.Generator:
    """A fresh numpy generator for this purpose: equal arguments give equal numbers.

    >>> stream(0, "order", 3).permutation(5).tolist() == stream(0, "order", 3).permutation(5).tolist()
    True
    """
    from numpy.random import PCG64, Generator

    return Generator(PCG64(seed_for(seed, purpose, *counters)))


def uniforms(seed: int, purpose: str, counters: Iterable[Sequence[int]], count: int) -> numpy.ndarray:
    """(n, count) in [0, 1): row i is ``stream(seed, purpose, *counters[i]).random(count)``, bit for bit.

    All rows at once, which is five times faster than one generator a row: numpy's SeedSequence (after O'Neill's
    ``seed_seq_fe``) and PCG64 (XSL-RR 128/64, O'Neill 2014) written out over arrays.
    """
    import numpy as np

    seeds = np.array([seed_for(seed, purpose, *each) for each in counters], dtype=np.uint64)
    words = _seed_words(seeds)
    start, start_low, inc, inc_low = (words[2 * i] | (words[2 * i + 1] << np.uint64(32)) for i in range(4))
    inc, inc_low = (inc << np.uint64(1)) | (inc_low >> np.uint64(63)), (inc_low << np.uint64(1)) | np.uint64(1)
    state = _step(*_add(start, start_low, inc, inc_low), inc, inc_low)
    out = np.empty((len(seeds), count))
    for column in range(count):
        high, low = state = _step(*state, inc, inc_low)
        mixed, turn = high ^ low, high >> np.uint64(58)
        bits = (mixed >> turn) | (mixed << (-turn & np.uint64(63)))
        out[:, column] = (bits >> np.uint64(11)) * 2.0**-53
    return out


def _seed_words(seeds: numpy.ndarray) -> list[numpy.ndarray]:
    """The eight 32-bit words that ``SeedSequence(seed).generate_state(4, uint64)`` is made of, as uint64 arrays."""
    import numpy as np

    def words_of(value: int) -> Any:
        return np.uint64(value & 0xFFFFFFFF)

    mask, half = words_of(-1), np.uint64(16)

    def hashed(value: Any, constant: int, factor: int) -> tuple[Any, int]:
        then = constant * factor & 0xFFFFFFFF
        value = ((value ^ words_of(constant)) * words_of(then)) & mask
        return value ^ (value >> half), then

    constant, pool = 0x43B0D7E5, []
    for word in (seeds & mask, seeds >> np.uint64(32), seeds * words_of(0), seeds * words_of(0)):
        mixed, constant = hashed(word, constant, 0x931E8875)
        pool.append(mixed)
    for source in range(4):
        for target in range(4):
            if source != target:
                mixed, constant = hashed(pool[source], constant, 0x931E8875)
                value = (words_of(0xCA01F9DD) * pool[target] - words_of(0x4973F715) * mixed) & mask
                pool[target] = value ^ (value >> half)
    constant, words = 0x8B51F9DD, []
    for place in range(8):
        mixed, constant = hashed(pool[place % 4], constant, 0x58F38DED)
        words.append(mixed)
    return words


def _add(high: Any, low: Any, other: Any, other_low: Any) -> tuple[Any, Any]:
    """Sum of two 128-bit numbers in halves."""
    import numpy as np

    total = low + other_low
    return high + other + (total < low).astype(np.uint64), total


def _step(high: Any, low: Any, inc: Any, inc_low: Any) -> tuple[Any, Any]:
    """state * 0x2360ED051FC65DA44385DF649FCCF645 + inc, modulo 2^128."""
    import numpy as np

    m_high, m_low, half, mask = (np.uint64(n) for n in (0x2360ED051FC65DA4, 0x4385DF649FCCF645, 32, 0xFFFFFFFF))
    a, b, c, d = low >> half, low & mask, m_low >> half, m_low & mask
    cross = (b * d >> half) + (a * d & mask) + b * c
    carried = a * c + (a * d >> half) + (cross >> half)
    return _add(carried + high * m_low + low * m_high, low * m_low, inc, inc_low)
