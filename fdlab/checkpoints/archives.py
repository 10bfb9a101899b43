"""Torch files (zip, TorchScript, legacy) as plain data, with tensors that are views of the bytes that were read.

Nothing is executed (``pickles.Machine``) and nothing is unpacked beyond the declared limits (``limits``). The layouts
are those that torch writes: ``NAME/data.pkl`` with ``NAME/data/KEY`` in a zip, or, before torch 1.6, five
pickles followed by the storages. This file knows them; no private function of torch is called.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fdlab.checkpoints.arrays import NAMES as ARRAYS
from fdlab.checkpoints.arrays import with_arrays
from fdlab.checkpoints.limits import MAX_COST, MAX_DEPTH, MAX_PARTS, MAX_PICKLE, checked_name
from fdlab.checkpoints.pickles import Budget, Machine, Name, Stub
from fdlab.checkpoints.storages import STORAGES, PickleError, Quantised
from fdlab.checkpoints.zips import Bounded, Zip, read_into

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


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
    with path.open("rb") as file:
        return read_zip_file(file)


def read_zip_file(file: IO[bytes]) -> Archive:
    """The same of an open file."""
    archive = Zip(file)
    entries = archive.entries
    main = min((name for name in entries if name.endswith("data.pkl")), key=len)
    root = main.removesuffix("data.pkl")
    if entries[main].file_size > MAX_PICKLE:
        raise PickleError(f"its pickle is longer than {MAX_PICKLE >> 20} MiB")

    def text(name: str) -> str:
        found = entries.get(root + name)
        return "" if found is None or found.file_size > 100 else archive.read(root + name).decode("latin1").strip()

    if text("byteorder") == "big":
        raise PickleError("it was written on a big-endian machine")
    stores: dict[str, Tensor] = {}

    def storage(entry: tuple[Any, ...]) -> Tensor:
        kind, key, count = entry[0], _storage_key(entry[1]), _count(entry[3])
        if key not in stores:
            name = f"{root}data/{key}"
            if name not in entries:
                raise PickleError(f"its storage {key} is missing")
            dtype = _dtype(kind)
            if count * dtype.itemsize > entries[name].file_size:
                raise PickleError("it is cut short: a storage reaches beyond its end")
            stores[key] = archive.flat(name)[: count * dtype.itemsize].view(dtype)
        return _as_dtype(stores[key], _dtype(kind))

    machine = Machine(archive.read(main), storage)
    content = machine.run()
    script = f"{root}constants.pkl" in entries
    version = text("version") or text(".format_version")
    content = _flatten_modules(content)
    kind = "TorchScript archive" if script else "torch zip"
    stubs = tuple(name for name in machine.stubs if not (script and name.startswith("__torch__.")))
    return Archive(content, kind, stubs, tuple(machine.seen), {"archive version": version})


def read_legacy(path: Path) -> Archive:
    """A file of torch.save before 1.6 (or with its old format asked for)."""
    with path.open("rb") as file:
        return _read_legacy(file, path.stat().st_size)


def _read_legacy(file: IO[bytes], length: int) -> Archive:
    """The first reading of the pickle learns the storages' sizes, the second one makes the tensors."""
    sizes: dict[str, tuple[torch.dtype, int]] = {}

    def learn(entry: tuple[Any, ...]) -> Tensor:
        kind, key, count = entry[0], _storage_key(entry[1]), entry[3]
        sizes[key] = (_dtype(kind), _count(count))
        return torch.empty(_count(count), dtype=sizes[key][0], device="meta")

    stream, budget = Bounded(file, length), Budget(cost=MAX_COST + length)
    machine = Machine(stream, limit=length, budget=budget)
    first = machine.run()
    if isinstance(first, dict) and not isinstance(first, Stub):
        return _plain_pickle(machine, first)
    if first != LEGACY_MAGIC:
        raise PickleError("it is a pickle, but not one that torch.save wrote")
    notes = {"protocol": str(Machine(stream, budget=budget).run())[:20]}
    about = Machine(stream, budget=budget).run()
    if isinstance(about, dict) and about.get("little_endian") is False:
        raise PickleError("it was written on a big-endian machine")
    start = file.tell()
    Machine(stream, learn, budget=budget).run()
    keys = Machine(stream, budget=budget).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("its list of storages is damaged")
    stores = _legacy_storages(file, length, keys, sizes)

    def storage(entry: tuple[Any, ...]) -> Tensor:
        whole = stores.get(_storage_key(entry[1]))
        if whole is None:
            raise PickleError(f"its storage {entry[1]} is missing")
        view = entry[4] if len(entry) > 4 else None  # a storage that is a part of another: (key, offset, size)
        if not isinstance(view, tuple) or len(view) != 3:
            return whole
        return whole[_count(view[1]) : _count(view[1]) + _count(view[2])]

    file.seek(start)
    machine = Machine(stream, storage, budget=Budget(steps=budget.steps))
    content = _flatten_modules(machine.run())
    return Archive(content, "torch legacy", tuple(machine.stubs), tuple(machine.seen), notes)


def _legacy_storages(
    file: IO[bytes], length: int, keys: list[str], sizes: dict[str, tuple[torch.dtype, int]]
) -> dict[str, Tensor]:
    """The storages from here on, one after the other, each after its count."""
    stores: dict[str, Tensor] = {}
    place = file.tell()
    for key in keys:
        head = file.read(8)
        if key not in sizes or len(head) < 8:
            raise PickleError("it is cut short: storages are missing")
        dtype, count = sizes[key]
        (stored,) = struct.unpack("<q", head)
        if stored != count:
            raise PickleError(f"its storage {key} holds {stored} numbers instead of {count}")
        place += 8 + count * dtype.itemsize
        if place > length:
            raise PickleError("it is cut short: a storage reaches beyond its end")
        stores[key] = torch.empty(count, dtype=dtype)
        read_into(file, stores[key].view(torch.uint8).numpy().data, "a storage")
    return stores


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


def _as_dtype(store: Tensor, dtype: torch.dtype) -> Tensor:
    return store if store.dtype == dtype else store.view(torch.uint8).view(dtype)


def _plain_pickle(machine: Machine, found: dict[Any, Any]) -> Archive:
    """A table that pickle alone wrote, with numpy's arrays in it (detectron2's model zoo)."""
    content = with_arrays(found)
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
        return dict(_module_tensors(content, [0]))
    if isinstance(content, dict):
        visited = [0]  # of all modules of the file
        done: dict[int, dict[str, Tensor]] = {}
        for key, value in list(content.items()):
            if isinstance(value, Stub) and _is_module(value):
                if id(value) not in done:
                    done[id(value)] = dict(_module_tensors(value, visited))
                content[key] = done[id(value)]
    return content


def _is_module(value: Stub) -> bool:
    return isinstance(value.state, dict) and (value.name.startswith("__torch__.") or "_modules" in value.state)


def _module_tensors(root: Stub, visited: list[int]) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor): eager modules keep three tables, TorchScript's objects mix all in one.

    ``visited``: parts of the file's modules so far.
    """
    open_: list[tuple[str, Any, int]] = [("", root, 0)]
    while open_:
        prefix, value, depth = open_.pop()
        if depth > MAX_DEPTH or visited[0] > MAX_PARTS:
            raise PickleError(f"its modules are nested deeper than {MAX_DEPTH}, or more than {MAX_PARTS:,}")
        state: dict[Any, Any] = value.state if isinstance(value, Stub) and isinstance(value.state, dict) else {}
        parts: dict[Any, Any] = {}
        for table in [state[name] for name in ("_parameters", "_buffers", "_modules") if name in state] or [state]:
            parts |= table if isinstance(table, dict) else {}
        visited[0] += 1 + len(parts)  # a shared module counts at every place where it stands
        named = [(checked_name(f"{prefix}{str(name)[:2000]}"), part) for name, part in parts.items()]
        yield from ((name, part) for name, part in named if isinstance(part, Tensor))
        open_.extend(reversed([(f"{name}.", part, depth + 1) for name, part in named if isinstance(part, Stub)]))
