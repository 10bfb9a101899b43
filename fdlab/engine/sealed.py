"""Checkpoint files with a checksum: a flipped bit or a cut is found when the file is read, and never trained on.

The sha256 of all bytes before it stands at the end of the file, as the comment that every zip file may have; so
``torch.load`` and ``unzip`` read such a file as any other. Files without it (of earlier versions) have the zip's own
CRC sums checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.records.atomic import replacing

MARK = b"fdlab sha256 "
LENGTH = len(MARK) + 64
CHUNK = 1 << 22


def write(path: Path, state: dict[str, Any], *, before: Path | None = None) -> None:
    """Writes the state atomically, with its checksum.

    Args:
        before: where the file that is there now is kept; it is whole or absent at any moment.
    """
    with replacing(path) as draft:
        torch.save(state, draft)
        _seal(draft)
        if before is not None and path.exists():
            _keep(path, before)


def read(path: Path, *, instead: str, mmap: bool = False) -> dict[str, Any]:
    """The state in a file, its checksum verified. Nothing in it is executed.

    Args:
        instead: what to do where the file is damaged.

    Raises:
        FdlabError: code 3, the file is damaged, or no state.
    """
    try:
        why = damage(path)
        if not why:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch, zip and pickle faults have no common base
        why = _harmless(error)
    raise FdlabError(f"The checkpoint {path} cannot be read.", why, instead, code=NOT_UNDERSTOOD)


def damage(path: Path) -> str:
    """Why the file is not what was written, or an empty string."""
    size = path.stat().st_size
    if not size:
        return "The file is empty."
    with path.open("rb") as file:
        file.seek(max(0, size - LENGTH))
        comment = file.read()
        if not comment.startswith(MARK):
            # Written before there were checksums; or the checksum itself is damaged, and the zip then names a comment
            # of its length.
            return "Its checksum is damaged." if _has_comment(file, size) else _zip_damage(path)
        file.seek(0)
        if _digest(file, size - LENGTH) != comment[len(MARK) :]:
            return "Its checksum differs: the file was cut or changed since it was written."
    return ""


def _seal(path: Path) -> None:
    """Appends the checksum as the zip's comment; its length stands in the last two bytes before it."""
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.seek(size - 2)
        if file.read(2) != b"\0\0":
            return  # no zip as torch writes it: left as it is
        file.seek(size - 2)
        file.write(LENGTH.to_bytes(2, "little"))
        file.seek(0)
        digest = _digest(file, size)
        file.seek(size)
        file.write(MARK + digest)


def _digest(file: Any, size: int) -> bytes:
    """The sha256 of the next ``size`` bytes, in hexadecimal."""
    found, left = hashlib.sha256(), size
    while left > 0 and (piece := file.read(min(CHUNK, left))):
        found.update(piece)
        left -= len(piece)
    return found.hexdigest().encode()


def _has_comment(file: Any, size: int) -> bool:
    """Whether the zip's last record promises a comment, of which a part or all may be cut off."""
    file.seek(max(0, size - LENGTH - 22))
    end = file.read()
    place = end.rfind(b"PK\x05\x06")
    return place >= 0 and end[place + 20 : place + 22] != b"\0\0"


def _zip_damage(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    return f"Its part {bad} has another sum than the file says." if bad else ""


def _keep(path: Path, before: Path) -> None:
    """A second name for the file; a copy where the disk knows no links."""
    draft = before.with_name(f".{before.name}.{os.getpid()}.link")
    with contextlib.suppress(OSError):
        draft.unlink(missing_ok=True)
        try:
            os.link(path, draft)
        except OSError:
            shutil.copyfile(path, draft)
        draft.replace(before)


def _harmless(error: Exception) -> str:
    """The first line of an error, without the advice to open files that may execute what is in them."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text.partition("Re-running")[0].partition("(1)")[0][:200].strip() or type(error).__name__
