"""Folders of ``torch.distributed.checkpoint``: ``.metadata`` says where each tensor's pieces lie in ``*.distcp``.

Both are read by fdlab's own pickle machine; nothing is executed. What is no tensor is left alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdlab.checkpoints.archives import read_zip_file
from fdlab.checkpoints.contents import NO_NETWORK
from fdlab.checkpoints.limits import MAX_PICKLE, checked_name
from fdlab.checkpoints.pickles import Machine, Stub
from fdlab.checkpoints.storages import MAX_DIMS, PickleError

METADATA = ".metadata"
_MODULE = "torch.distributed.checkpoint."


class Room:
    """What may be read and made of a folder: twice the bytes of its files, as pieces could name the same bytes."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = 2 * size, {"made": 0, "read": 0}

    def take(self, what: str, count: int, name: str) -> None:
        """Raises PickleError where more is taken than the files hold."""
        self.taken[what] += count
        if self.taken[what] > self.size:
            raise PickleError(f"its {name} is larger than what its files hold")


def read_distributed(folder: Path) -> dict[str, Any]:
    """The tensors, in the tables in which they were saved; optimizers are left out.

    Raises:
        PickleError: damaged, a piece is missing, or written with a transformation (compressed).
    """
    path = folder / METADATA
    if path.stat().st_size > MAX_PICKLE:
        raise PickleError(f"its {METADATA} is longer than {MAX_PICKLE >> 20} MiB")
    state = _state(Machine(path.read_bytes()).run(), "Metadata")
    places = {(key["fqn"], key["offset"]): _state(value, "_StorageInfo") for key, value in _placed(state)}
    nested = state.get("planner_data")
    content: dict[str, Any] = {}
    room = Room(sum(file.stat().st_size for file in folder.glob("*.distcp")))
    for name, entry in _table(state, "state_dict_metadata").items():
        path_in = nested.get(name) if isinstance(nested, dict) else None
        parts = tuple(map(str, path_in)) if isinstance(path_in, tuple) and path_in else (str(name),)
        if not isinstance(entry, Stub) or not entry.name.endswith("TensorStorageMetadata") or parts[0] in NO_NETWORK:
            continue
        tensor = _tensor(folder, name, _state(entry, "TensorStorageMetadata"), places, room)
        for part in parts:
            checked_name(part)
        table = content
        for part in parts[:-1]:
            table = table.setdefault(part, {})
        table[parts[-1]] = tensor
    return content


def _state(value: Any, kind: str) -> Mapping[str, Any]:
    if not isinstance(value, Stub) or not value.name.startswith(_MODULE) or not isinstance(value.state, dict):
        raise PickleError(f"its {METADATA} holds no {kind}")
    return value.state


def _table(state: Mapping[str, Any], name: str) -> Mapping[Any, Any]:
    found = state.get(name)
    if not isinstance(found, dict):
        raise PickleError(f"its {METADATA} has no table {name}")
    return found


def _placed(state: Mapping[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """[({fqn, offset}, storage information)] of every piece."""
    found = []
    for key, value in _table(state, "storage_data").items():
        index = _state(key, "MetadataIndex")
        found.append(({"fqn": index.get("fqn"), "offset": _counts(index.get("offset") or ())}, value))
    return found


def _counts(value: Any) -> tuple[int, ...]:
    good = isinstance(value, (tuple, list)) and len(value) <= MAX_DIMS
    if not good or any(type(count) is not int or not 0 <= count < 2**62 for count in value):
        raise PickleError(f"its {METADATA} holds a shape that is not made of counts")
    return tuple(value)


def _tensor(
    folder: Path,
    name: Any,
    entry: Mapping[str, Any],
    places: Mapping[tuple[Any, tuple[int, ...]], Mapping[str, Any]],
    room: Room,
) -> Tensor:
    """A tensor put together from its pieces, each a torch file of its own inside a ``.distcp`` file."""
    size, whole = _counts(entry.get("size") or ()), None
    room.take("made", math.prod(size), f"tensor {str(name)[:80]}, {size},")  # at least a byte a number
    listed = entry.get("chunks")
    chunks = listed if isinstance(listed, list) else []
    for chunk in chunks:
        stated = _state(chunk, "ChunkStorageMetadata")
        offsets, sizes = _counts(stated.get("offsets") or ()), _counts(stated.get("sizes") or ())
        place = places.get((name, offsets)) or places.get((name, ()))
        if place is None or len(offsets) != len(size):
            raise PickleError(f"a piece of {str(name)[:80]} is nowhere")
        piece = _piece(folder, place, room)
        if tuple(piece.shape) != sizes or any(o + s > n for o, s, n in zip(offsets, sizes, size, strict=True)):
            raise PickleError(f"a piece of {str(name)[:80]} does not fit into it")
        if len(chunks) == 1 and sizes == size:
            return piece
        if whole is None:
            room.take("made", math.prod(size) * (piece.itemsize - 1), f"tensor {str(name)[:80]}, {size},")
            whole = torch.zeros(size, dtype=piece.dtype)
        whole[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))] = piece
    if whole is None:
        raise PickleError(f"its tensor {str(name)[:80]} has no pieces")
    return whole


def _piece(folder: Path, place: Mapping[str, Any], room: Room) -> Tensor:
    name, start, length = place.get("relative_path"), place.get("offset"), place.get("length")
    if not isinstance(name, str) or Path(name).name != name or type(start) is not int or type(length) is not int:
        raise PickleError(f"its {METADATA} names a place that is not in this folder")
    if place.get("transform_descriptors"):
        raise PickleError("it was written with a transformation (compressed), which fdlab does not undo")
    if not (folder / checked_name(name)).is_file():
        raise PickleError(f"its file {name[:80]} is missing")
    if not 0 <= start < 2**62 or length < 0:
        raise PickleError(f"its file {name[:80]} is cut short")
    room.take("read", length, f"piece in {name[:80]}")
    with (folder / name).open("rb") as file:
        file.seek(start)
        data = file.read(length)
    if len(data) != length:
        raise PickleError(f"its file {name[:80]} is cut short")
    found = read_zip_file(io.BytesIO(data)).content
    if not isinstance(found, Tensor):
        raise PickleError(f"a piece in {name[:80]} is no tensor")
    return found
