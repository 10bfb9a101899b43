"""Streams are functions of their counters; many at once are the same numbers as one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fdlab import randomness
from fdlab.randomness import stream, uniforms

COUNTERS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 2**31)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**40), counters=COUNTERS, count=st.integers(1, 13))
def test_many_streams_at_once_are_the_streams(seed, counters, count):
    wanted = np.stack([stream(seed, "view", *each).random(count) for each in counters])
    assert np.array_equal(uniforms(seed, "view", counters, count), wanted)


def test_extreme_seeds(monkeypatch):
    """Seeds of one word, of two, and those whose sums carry."""
    for value in (0, 1, 2**32 - 1, 2**32, 2**63 - 1, 0x123456789ABCDEF):
        monkeypatch.setattr(randomness, "seed_for", lambda *_, value=value: value)
        assert np.array_equal(uniforms(0, "x", [(0,)], 40)[0], stream(0, "x").random(40))
