"""What a user is told when a process that prepares images dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fdlab.errors import FdlabError

SIGNS = ("exited unexpectedly", "is killed by signal")


@contextmanager
def deaths_said() -> Iterator[None]:
    """Around everything that happens while loaders run: torch reports a death wherever the program is at that moment.

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
            fix="Usually memory ran out: use fewer workers (run.workers=0: none) or a smaller batch. The same command goes "
            "on from the last checkpoint.",
        ) from error
