"""Torch files (zip, TorchScript, legacy) as plain data, with tensors that are views of the mapped file.

Nothing is executed (``pickles.Machine``) and nothing is unpacked beyond the declared limits. The layouts
are those that torch writes: ``NAME/data.pkl`` with ``NAME/data/KEY`` in a zip, or, before torch 1.6, five
pickles followed by the storages. This file knows them; no private function of torch is called.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdlab.checkpoints.arrays import NAMES as ARRAYS
from fdlab.checkpoints.arrays import with_arrays
from fdlab.checkpoints.pickles import MAX_BYTES, Machine, Name, Stub
from fdlab.checkpoints.storages import STORAGES, PickleError, Quantised

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_UNPACKED = 16  # a compressed archive may hold so many times its own size: weights hardly compress
MAX_DEPTH = 64
MAX_PARTS = 200_000  # modules, parameters and buffers of a pickled module


@dataclass(frozen=True)
class Archive:
    """What a torch file holds: the value, the names that became stubs, and all names in its pickle.

    ``stubs`` leaves out the classes of a TorchScript archive, which its pickle always names.
    """

    content: Any
    kind: str
    stubs: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)


def read_zip(path: Path) -> Archive:
    """A file of torch.save since 1.6, or a TorchScript archive (its parameters and buffers by dotted name).

    Raises:
        PickleError, zipfile.BadZipFile: damaged, or beyond the limits.
    """
    return read_zip_bytes(_map(path))


def read_zip_bytes(mapped: Any) -> Archive:
    """The same of bytes that can be written (a private map, a bytearray): tensors are views of them."""
    size = len(mapped)
    with zipfile.ZipFile(_Opened(mapped)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        total = sum(entry.file_size for entry in entries.values())
        if total > MAX_UNPACKED * size:
            raise PickleError(f"it declares {total:,} bytes in a file of {size:,}: more than {MAX_UNPACKED} times")
        main = min((name for name in entries if name.endswith("data.pkl")), key=len)
        root = main.removesuffix("data.pkl")
        if entries[main].file_size > MAX_BYTES:
            raise PickleError(f"its pickle is longer than {MAX_BYTES >> 20} MiB")

        def text(name: str) -> str:
            found = entries.get(root + name)
            return (
                "" if found is None or found.file_size > 100 else _read(archive, mapped, found).decode("latin1").strip()
            )

        if text("byteorder") == "big":
            raise PickleError("it was written on a big-endian machine")
        stores: dict[str, Tensor] = {}

        def storage(entry: tuple[Any, ...]) -> Tensor:
            kind, key, count = entry[0], _storage_key(entry[1]), entry[3]
            if key not in stores:
                found = entries.get(f"{root}data/{key}")
                if found is None:
                    raise PickleError(f"its storage {key} is missing")
                data, offset = (mapped, _checked(mapped, found)) if _stored(found) else (archive.read(found), 0)
                stores[key] = _flat(data, offset, _dtype(kind), count, found.file_size)
            return _as_dtype(stores[key], _dtype(kind))

        machine = Machine(_read(archive, mapped, entries[main]), storage)
        content = machine.run()
        script = f"{root}constants.pkl" in entries
        version = text("version") or text(".format_version")
    content = _flatten_modules(content)
    kind = "TorchScript archive" if script else "torch zip"
    stubs = tuple(name for name in machine.stubs if not (script and name.startswith("__torch__.")))
    return Archive(content, kind, stubs, tuple(machine.seen), {"archive version": version})


def read_legacy(path: Path) -> Archive:
    """A file of torch.save before 1.6 (or with its old format asked for).

    The first reading of the pickle learns the storages' sizes, the second one makes the tensors.
    """
    sizes: dict[str, tuple[torch.dtype, int]] = {}

    def learn(entry: tuple[Any, ...]) -> Tensor:
        kind, key, count = entry[0], _storage_key(entry[1]), entry[3]
        sizes[key] = (_dtype(kind), _count(count))
        return torch.empty(_count(count), dtype=sizes[key][0], device="meta")

    mapped = _map(path)
    first = Machine(mapped, limit=len(mapped)).run()
    if isinstance(first, dict) and not isinstance(first, Stub):
        return _plain_pickle(mapped)
    if first != LEGACY_MAGIC:
        raise PickleError("it is a pickle, but not one that torch.save wrote")
    notes = {"protocol": str(Machine(mapped).run())}
    about = Machine(mapped).run()
    if isinstance(about, dict) and about.get("little_endian") is False:
        raise PickleError("it was written on a big-endian machine")
    start = mapped.tell()
    Machine(mapped, learn).run()
    keys = Machine(mapped).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is damaged")
    stores, place = {}, mapped.tell()
    for key in keys:
        if key not in sizes or len(mapped) - place < 8:
            raise PickleError("it is cut short: storages are missing")
        dtype, count = sizes[key]
        (stored,) = struct.unpack("<q", mapped[place : place + 8])
        if stored != count:
            raise PickleError(f"its storage {key} holds {stored} numbers instead of {count}")
        stores[key] = _flat(mapped, place + 8, dtype, count, len(mapped) - place - 8)
        place += 8 + count * dtype.itemsize

    def storage(entry: tuple[Any, ...]) -> Tensor:
        whole = stores.get(_storage_key(entry[1]))
        if whole is None:
            raise PickleError(f"its storage {entry[1]} is missing")
        view = entry[4] if len(entry) > 4 else None  # a storage that is a part of another: (key, offset, size)
        if not isinstance(view, tuple) or len(view) != 3:
            return whole
        return whole[_count(view[1]) : _count(view[1]) + _count(view[2])]

    mapped.seek(start)
    machine = Machine(mapped, storage)
    content = _flatten_modules(machine.run())
    return Archive(content, "torch legacy", tuple(machine.stubs), tuple(machine.seen), notes)


class _Opened(io.RawIOBase):
    """Bytes as a file that can be read and searched, without a copy of them."""

    def __init__(self, data: Any) -> None:
        self.data, self.place = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = max((0, self.place, len(self.data))[whence] + offset, 0)
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int | None = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.place + size
        found = bytes(self.data[self.place : end])
        self.place += len(found)
        return found


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable pages of our own, as torch wants


def _stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED


def _offset(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Where an uncompressed entry's bytes begin: its local header may be longer than the directory says."""
    header = mapped[entry.header_offset : entry.header_offset + 30]
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleError(f"it is damaged: {entry.filename[:80]} is not where the zip directory says")
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + name + extra


def _checked(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """The entry's offset, once its bytes have the checksum that the directory gives (torch may leave it out: 0)."""
    offset = _offset(mapped, entry)
    with memoryview(mapped) as view, view[offset : offset + entry.file_size] as part:
        if entry.CRC and zlib.crc32(part) != entry.CRC:
            raise PickleError(f"it is damaged: {entry.filename[:80]} does not have its checksum")
    return offset


def _read(archive: zipfile.ZipFile, mapped: mmap.mmap, entry: zipfile.ZipInfo) -> bytes:
    """A small entry's bytes; zipfile itself insists on a checksum."""
    if not _stored(entry):
        return archive.read(entry)
    offset = _checked(mapped, entry)
    return mapped[offset : offset + entry.file_size]


def _dtype(kind: Any) -> torch.dtype:
    if isinstance(kind, torch.dtype):
        return kind
    name = kind.name.rpartition(".")[2] if isinstance(kind, Name) else ""
    if name not in STORAGES:
        if name.startswith(("QInt", "QUInt")):
            raise Quantised(f"it is quantised ({name})")
        raise PickleError(f"it holds numbers of a kind that fdlab does not read ({_said(kind)})")
    return STORAGES[name]


def _said(kind: Any) -> str:
    return kind.name[:80] if isinstance(kind, (Name, Stub)) else type(kind).__name__


def _storage_key(key: Any) -> str:
    """A storage's name; anything but text and numbers could take for ever to print."""
    if not isinstance(key, (str, int)):
        raise PickleError("a storage in it has no name")
    return str(key)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise PickleError("it holds a storage whose size is no count")
    return value


def _flat(data: Any, offset: int, dtype: torch.dtype, count: Any, room: int) -> Tensor:
    """The ``count`` numbers at ``offset`` of ``data``, inside ``room`` bytes and inside the data."""
    count = _count(count)
    if count * dtype.itemsize > min(room, len(data) - offset):
        raise PickleError("it is cut short: a storage reaches beyond its end")
    if not count:
        return torch.empty(0, dtype=dtype)
    if isinstance(data, bytes):
        data = bytearray(data)
    if offset % dtype.itemsize == 0:
        return torch.frombuffer(data, dtype=dtype, count=count, offset=offset)
    raw = torch.frombuffer(data, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset)
    return raw.clone().view(dtype)  # the old format does not align its numbers


def _as_dtype(store: Tensor, dtype: torch.dtype) -> Tensor:
    return store if store.dtype == dtype else store.view(torch.uint8).view(dtype)


def _plain_pickle(mapped: mmap.mmap) -> Archive:
    """A table that pickle alone wrote, with numpy's arrays in it (detectron2's model zoo)."""
    mapped.seek(0)
    machine = Machine(mapped, limit=len(mapped))
    content = with_arrays(machine.run())
    if not any(
        isinstance(part, Tensor)
        for table in (content, *content.values())
        if type(table) is dict
        for part in table.values()
    ):
        raise PickleError("it is a pickle, but not one that torch.save wrote, and it holds no arrays")
    stubs = tuple(name for name in machine.stubs if name not in ARRAYS)
    return Archive(content, "pickle of arrays", stubs, tuple(machine.seen))


def _flatten_modules(content: Any) -> Any:
    """Pickled modules become what ``state_dict()`` gives; at the top and one level below it."""
    if isinstance(content, Stub) and _is_module(content):
        return dict(_module_tensors(content))
    if isinstance(content, dict):
        for key, value in list(content.items()):
            if isinstance(value, Stub) and _is_module(value):
                content[key] = dict(_module_tensors(value))
    return content


def _is_module(value: Stub) -> bool:
    return isinstance(value.state, dict) and (value.name.startswith("__torch__.") or "_modules" in value.state)


def _module_tensors(root: Stub) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor): eager modules keep three tables, TorchScript's objects mix all in one."""
    open_: list[tuple[str, Any, int]] = [("", root, 0)]
    visited = 0
    while open_:
        prefix, value, depth = open_.pop()
        if depth > MAX_DEPTH or visited > MAX_PARTS:
            raise PickleError(f"its modules are nested deeper than {MAX_DEPTH}, or more than {MAX_PARTS:,}")
        state: dict[Any, Any] = value.state if isinstance(value, Stub) and isinstance(value.state, dict) else {}
        parts: dict[Any, Any] = {}
        for table in [state[name] for name in ("_parameters", "_buffers", "_modules") if name in state] or [state]:
            parts |= table if isinstance(table, dict) else {}
        visited += 1 + len(parts)  # a shared module counts at every place where it stands
        yield from ((f"{prefix}{name}", part) for name, part in parts.items() if isinstance(part, Tensor))
        below = [(f"{prefix}{name}.", part, depth + 1) for name, part in parts.items() if isinstance(part, Stub)]
        open_.extend(reversed(below))
