"""Checksums of a folder's files in ``SHA256SUMS``, so that a cut table or a changed digit is found when it is read.

The file has the form of ``sha256sum``: ``sha256sum -c SHA256SUMS`` checks a folder without fdlab. A folder without
the file was written before there were checksums, or by another program; it is read as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fdlab.records.atomic import write_text

SEAL = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def digest_of(path: Path) -> str:
    """The sha256 of a file's bytes; an empty string where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def seal(folder: Path, files: Iterable[Path], coming: Mapping[str, str] | None = None) -> None:
    """Writes ``SHA256SUMS`` over these files of the folder; ``coming``: digests of files that are about to be there."""
    sums = {path.relative_to(folder).as_posix(): digest_of(path) for path in files} | dict(coming or {})
    write_text(folder / SEAL, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def unseal(folder: Path) -> None:
    """Takes the checksums away before the first of the files is written anew: a kill must not leave a false alarm."""
    with contextlib.suppress(OSError):
        (folder / SEAL).unlink()


def damaged(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Which files are not what the checksums say, ``SHA256SUMS`` itself where it is damaged; empty without checksums.

    Args:
        names: only these files; default: all that have a checksum.
    """
    try:
        lines = (folder / SEAL).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return [SEAL]
    found = [_LINE.fullmatch(line) for line in lines]
    if not lines or not all(found):
        return [SEAL]
    sums = {match[2]: match[1] for match in found if match}
    asked = list(sums) if names is None else list(names)
    # A name that the checksums do not know is a name that was changed in them.
    return [name for name in asked if sums.get(name) != digest_of(folder / name)]
