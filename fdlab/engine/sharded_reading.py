"""Reads torch's distributed checkpoints without executing what a file says.

torch unpickles two things openly: ``.metadata`` (which tensor lies where) and every value that is no tensor
(a learning rate). Here the first may name torch's own descriptions alone, the second is read as plain values first.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

DESCRIPTIONS = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
PLAIN = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
}


class _Descriptions(pickle.Unpickler):
    """Knows the data classes and enumerations that describe a checkpoint, sizes, types and paths; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if "." in name or not self._known(module, name):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no description of a checkpoint")
        return super().find_class(module, name)

    def _known(self, module: str, name: str) -> bool:
        if (module, name) in PLAIN or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return True
        if module not in DESCRIPTIONS:
            return False
        kind = super().find_class(module, name)  # a module of torch that is imported already
        defined_there = isinstance(kind, type) and kind.__module__ == module
        return defined_there and (is_dataclass(kind) or issubclass(kind, Enum))


class Reader(FileSystemReader):
    """torch's reader of a folder, with a closed list of what its table of contents may name."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (self.path / ".metadata").open("rb") as file:  # type: ignore[operator]
            contents = _Descriptions(file).load()
        if not isinstance(contents, Metadata):
            raise pickle.UnpicklingError("its table of contents is none")
        if contents.storage_meta is None:
            contents.storage_meta = StorageMeta()
        contents.storage_meta.load_id = self.load_id
        return contents


class Planner(DefaultLoadPlanner):
    """torch's planner, which takes plain values only."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        # Raises where the value is anything but plain numbers, texts and tensors; what torch does next executes.
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)
