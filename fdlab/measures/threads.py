"""How many threads small problems are solved on.

torch and NumPy's BLAS have a pool of threads each, whose threads wait for the next operation by spinning. Where small
operations of the two take turns, each pool waits while the other's threads hold the cores: 0.4 ms become 80 ms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

LARGE = 1e8  # multiplications in one matrix product, from which more threads than one are worth waking


@contextlib.contextmanager
def one_thread(product: float = 0.0) -> Iterator[None]:
    """Within, torch and BLAS work on one thread each; both have their own number again afterwards.

    Args:
        product: multiplications in the largest matrix product within; from ``LARGE`` on nothing is changed.

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    if product >= LARGE:
        yield
        return
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
