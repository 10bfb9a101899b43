"""What a model was found to be when it was last opened, so that the store can be asked without opening it again.

Opening imports timm, reads every tensor and hashes it; a question needs the result alone, an ``EncoderInfo``. A note of
it holds for the very files that it was made of (place, size, times, inode), for the versions of torch and timm and for
the code of this room. All else is opened: published names, whose weights may change elsewhere, and files that were
written a moment ago, whose times may not show a second change. A lost or damaged note costs one opening.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fdlab.checkpoints.sources import on_disk, run_file
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import EncoderInfo
from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.records.atomic import write_json

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

AT_REST = 2.0  # seconds that a file must have been left alone: clocks of file systems are coarse
MOST_FILES = 256  # of a folder


class Known:
    """A model of which ``info`` is known; ``encoder`` opens it when it is first asked for."""

    def __init__(self, info: EncoderInfo, opening: Callable[[], Encoder]) -> None:
        self.info, self._opening = info, opening
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The open model.

        Raises:
            FdlabError: what opening raises; code 3, the file is another one than when ``info`` was taken.
        """
        if self._encoder is None:
            opened = self._opening()
            if opened.info != self.info:
                raise FdlabError(
                    f"{self.info.source} was changed while it was being measured.",
                    "Its weights or settings are not those that were there at the start.",
                    "Give the same command again.",
                    NOT_UNDERSTOOD,
                )
            self._encoder = opened
        return self._encoder


def known_model(source: str, notes: Path, *, device: str = "cpu", seed: int = 0) -> Known:
    """The model of a SOURCE: by a note in the folder ``notes`` where one holds, else opened, and a note is left.

    Args:
        source: as in ``open_model``.
        notes: one small JSON file a source; it may be emptied at any time.
        seed: of ``random:``.

    Raises:
        FdlabError: what ``open_model`` raises, for a model of which nothing is known.
    """
    pick_device(device)

    def opening() -> Encoder:
        from fdlab.checkpoints.open import open_model

        return open_model(source, device=device, seed=seed)

    before = _state(source, seed)
    if before is None:
        return _opened(opening())
    name = hashlib.sha256(json.dumps([str(Path.cwd()), source, seed]).encode()).hexdigest()
    note = notes / f"{name}.json"
    info = _read(note, before)
    if info is not None:
        return Known(info, lambda: _compared(opening(), info, note))
    opened = opening()
    if _state(source, seed) == before and _at_rest(before):
        held = asdict(opened.info)
        with contextlib.suppress(OSError, FdlabError):  # a folder that cannot be written to costs time, no result
            write_json(note, {"of": before, "info": held, "sha256": _digest(before, held)})
    return _opened(opened)


def _opened(encoder: Encoder) -> Known:
    return Known(encoder.info, lambda: encoder)


def _compared(opened: Encoder, info: EncoderInfo, note: Path) -> Encoder:
    if opened.info != info:
        note.unlink(missing_ok=True)  # ``Known.encoder`` refuses it; the next command opens the model
    return opened


def _read(note: Path, state: dict[str, Any]) -> EncoderInfo | None:
    """The note's info, or None where it is absent, of another state, or damaged."""
    try:
        held = json.loads(note.read_text(encoding="utf-8"))
        if held["of"] != state or held["sha256"] != _digest(state, held["info"]):
            return None
        if set(held["info"]) != {field.name for field in fields(EncoderInfo)}:
            return None
        return EncoderInfo(**{name: _tuples(value) for name, value in held["info"].items()})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _digest(state: Any, info: Any) -> str:
    return hashlib.sha256(json.dumps([state, info], sort_keys=True).encode()).hexdigest()


# --- what a note depends on ----------------------------------------------------------------------------


def _state(source: str, seed: int) -> dict[str, Any] | None:
    """Everything that ``info`` follows from, as JSON knows it; None where that cannot be told without opening."""
    is_random = source.startswith("random:")
    found = on_disk(source.removeprefix("random:"))
    if found is None and not is_random:
        return None
    try:
        files = [] if found is None else _files(found[0])
        stamps = [_stamp(file) for file in files]
    except (OSError, FdlabError):
        return None  # opening says what is wrong
    if len(files) > MOST_FILES:
        return None
    return {"seed": seed if is_random else None, "files": stamps, "made_by": _made_by()}


def _files(path: Path) -> list[Path]:
    """The files that opening may read: of a file, also the JSON files beside it."""
    path = run_file(path) if path.is_dir() else path
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return [path, *sorted(file for file in path.parent.glob("*.json") if file != path)]


def _stamp(file: Path) -> list[Any]:
    """Where a file is and what changes with its content; the time of the inode's change cannot be set back."""
    held = file.stat()
    return [str(file.resolve()), held.st_size, held.st_mtime_ns, held.st_ctime_ns, held.st_ino]


def _at_rest(state: dict[str, Any]) -> bool:
    newest = max((max(mtime, ctime) for _, _, mtime, ctime, _ in state["files"]), default=0)
    return time.time_ns() - newest > AT_REST * 1e9


@cache
def _made_by() -> list[str]:
    """Versions of what opens a model, and a digest of the times and sizes of this room's files."""
    room = Path(__file__).parent
    stamps = [_stamp(file) for file in [*sorted(room.rglob("*.py")), room.parent / "randomness.py"]]
    code = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    return [torch.__version__, version("timm"), version("safetensors"), code]
