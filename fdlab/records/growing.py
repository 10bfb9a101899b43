"""A table that grows while a model is trained: the one table with the column ``step``, one measurement after another.

It is whole at any moment: every measurement writes the file anew beside the old one and takes its place. A step that is
measured again takes the place of its old rows, so that a training that goes on from an earlier state doubles nothing.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fdlab.records.atomic import replacing
from fdlab.records.seal import unseal
from fdlab.records.table import STEPPED, read_table

HEADER = (",".join(STEPPED) + "\n").encode()


class GrowingTable:
    """The measurements in one file, by step; the steps of an earlier start are read when it is made.

    Args:
        path: the file; it comes with the first measurement.

    Raises:
        FdlabError: code 3, what is there is no such table.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lines: dict[int, bytes] = {}  # step -> its rows as they are written
        self._stamp: tuple[int, int] | None = None
        self._read()

    @property
    def steps(self) -> list[int]:
        """The steps that are measured, from the first."""
        return sorted(self._lines)

    def put(self, step: int, table: pd.DataFrame) -> None:
        """Adds the rows of one step, in the place of rows that this step has already.

        What another process added since is kept.

        Raises:
            FdlabError: code 4 where the disk is full; the file is then what it was.
        """
        if self._stamp != _stamp(self.path):
            self._read()
        self._lines[step] = _as_lines(table.assign(step=step))
        unseal(self.path.parent)
        with replacing(self.path) as draft:
            draft.write_bytes(HEADER + b"".join(self._lines[known] for known in self.steps))
        self._stamp = _stamp(self.path)

    def _read(self) -> None:
        """Takes the steps of the file that are not known yet."""
        if self.path.is_file():
            self._stamp = _stamp(self.path)
            table = read_table(self.path)
            rows = table.reindex(columns=list(STEPPED)).dropna(subset=["step"])
            found = {int(step): _as_lines(rows[rows["step"] == step]) for step in rows["step"].unique()}
            self._lines = found | self._lines


def _as_lines(table: pd.DataFrame) -> bytes:
    text = table[list(STEPPED)].to_csv(index=False, header=False, float_format="%.10g", lineterminator="\n")
    return text.encode("utf-8", "surrogatepass")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells one writing of the file from another; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
