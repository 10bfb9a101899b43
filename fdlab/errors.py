"""The one error type: what went wrong, why, and what to do about it.

Everything a user can cause raises ``FdlabError``; the command line prints its three lines
without a traceback and ends with its exit code.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

FAILED, USAGE, NOT_UNDERSTOOD, OUT_OF_SPACE, CHECK_NOT_MET, INTERRUPTED = 1, 2, 3, 4, 5, 130


class FdlabError(Exception):
    """An error that a user can act on.

    Args:
        what: what went wrong, one sentence that names the file, key or model.
        why: the reason, as far as it is known.
        fix: what to do, with the exact option or command where there is one.
        code: the exit code: 1 failed, 2 usage or settings, 3 checkpoint or data not understood,
            4 out of memory or disk, 5 a stated check not met, 130 interrupted with the state saved.
    """

    def __init__(self, what: str, why: str = "", fix: str = "", code: int = FAILED) -> None:
        super().__init__(what, why, fix, code)
        self.what, self.why, self.fix, self.code = what, why, fix, code

    def __str__(self) -> str:
        return "\n".join(line for line in (self.what, self.why, self.fix) if line)


class Diverged(FdlabError):
    """A training whose loss is not a number: no other fault is kept as its result where many are trained."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the closest known word, else an empty string.

    >>> nearest("optim.rl", ["optim.lr", "run.batch"])
    " Did you mean 'optim.lr'?"
    """
    closest = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{closest[0]}'?" if closest else ""
