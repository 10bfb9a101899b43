"""Files that are either whole or absent: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fdlab.errors import OUT_OF_SPACE, FdlabError

_HOST = re.sub(r"[^A-Za-z0-9-]", "", platform.node())[:30]


def writable_folder(path: Path | str) -> Path:
    """Makes the folder and proves that it can be written to.

    Raises:
        FdlabError: it cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FdlabError(
            f"The output folder {folder} cannot be written to.",
            error.strerror or str(error),
            "Name another folder with -o/--out, or change its permissions.",
        ) from None
    return folder


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it takes the place of ``path``.

    Raises:
        FdlabError: code 4 where the disk is full; ``path`` is then what it was before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.part")
    try:
        yield draft
        with draft.open("rb+") as file:
            _usual_mode(file.fileno())
            os.fsync(file.fileno())
        draft.replace(target)
        _sync_folder(target.parent)
    except (OSError, RuntimeError) as error:
        # torch.save has no OSError for a full disk
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
            word in str(error) for word in ("PytorchStreamWriter", "inline_container", "No space left on device")
        ):
            raise FdlabError(
                f"No space left while writing {target}.",
                "The file that was there before is untouched.",
                "Free some space and give the same command again: it continues.",
                OUT_OF_SPACE,
            ) from None
        raise
    finally:
        draft.unlink(missing_ok=True)
        _clear(target)


def _usual_mode(file: int) -> None:
    """The mode that the umask gives to new files: some libraries write theirs for the owner alone."""
    if os.fstat(file).st_mode & 0o077 == 0 and hasattr(os, "fchmod"):
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(file, 0o666 & ~mask)


def _clear(target: Path) -> None:
    """Removes drafts of this file that killed processes of this computer left."""
    with contextlib.suppress(OSError):
        for path in target.parent.glob(f".{glob.escape(target.name)}.{_HOST}.*.part"):
            number = path.name.removesuffix(".part").rpartition(".")[2]
            if number.isdigit() and not _alive(int(number)):
                path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or none of this system's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    # The rename itself is only durable once the folder is on disk.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON file as a dict; empty where the file is absent, damaged, or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path | str, value: Any) -> None:
    """Writes readable JSON atomically; keys keep their order."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """What ``write_json`` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n"
