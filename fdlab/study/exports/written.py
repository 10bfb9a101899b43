"""What a form of export left: its files, how they are used, and how far their outputs lie from fdlab's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """``files`` in the folder; ``code`` uses them, with FOLDER for the folder's name.

    ``difference`` is the largest one of the outputs, as a share of the largest output; None: nothing here could
    compute them, and ``notes`` say so.
    """

    files: tuple[str, ...]
    code: str
    difference: float | None
    notes: tuple[str, ...] = ()
