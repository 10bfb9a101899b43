"""Progress with time left, on stderr: a live bar on a terminal, else one plain line every few seconds."""

from __future__ import annotations

import statistics
import sys
import time
from collections import deque
from typing import TextIO


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, from an hour on with hours.

    >>> duration(75), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str, *, quiet: bool = False) -> None:
    """One line on stderr, before some work starts."""
    if not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Progress:
    """Counts ``total`` units of work and says how long the rest will take.

    Time left = remaining units x the median of the last intervals, so that one slow step (an
    evaluation, a first compilation) does not swing it.

    Args:
        label: what is being done.
        total: how many units there are.
        quiet: say nothing.
        every: seconds between plain lines where stderr is no terminal.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        quiet: bool = False,
        every: float = 5.0,
        out: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.quiet, self.every = label, total, quiet, every
        self.out = out if out is not None else sys.stderr
        self.live = self.out.isatty()
        self.done = 0
        self.started = self.last_tick = self.last_said = time.monotonic()
        self.intervals: deque[float] = deque(maxlen=64)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live and not self.quiet and self.done:
            self.out.write("\n")
            self.out.flush()

    def advance(self, units: int = 1, note: str = "") -> None:
        """``units`` more are done; ``note`` (a loss, a file) stands behind the numbers."""
        now = time.monotonic()
        self.intervals.append((now - self.last_tick) / max(units, 1))
        self.last_tick = now
        self.done += units
        due = now - self.last_said >= (0.2 if self.live else self.every)
        if self.quiet or not (due or self.done >= self.total):
            return
        self.last_said = now
        left = max(self.total - self.done, 0) * statistics.median(self.intervals)
        text = f"{self.label} {self.done}/{self.total}  {duration(now - self.started)} < {duration(left)} left"
        text += f"  {note}" if note else ""
        self.out.write(f"\r\x1b[K{text}" if self.live else text + "\n")
        self.out.flush()
