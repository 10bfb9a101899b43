"""safetensors files, read by fdlab itself: header bounded and checked before any number, and read, never mapped.

The library maps the file, and a file that another process cuts meanwhile then ends the process without a word. The
checks are the library's: offsets without gap or overlap from the first byte to the last, sizes as the shapes say.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fdlab.checkpoints.limits import MAX_HEADER, MAX_TENSORS, checked_name
from fdlab.checkpoints.storages import MAX_DIMS, PickleError
from fdlab.checkpoints.zips import read_into

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_META = "__metadata__"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """({key: tensor} by key, the file's text entries).

    Raises:
        PickleError: damaged, cut short, or beyond the limits.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise PickleError(f"its header is longer than {MAX_HEADER >> 20} MiB")
        header = file.read(length)
        if len(header) < length:
            raise PickleError("it is cut short: its header reaches beyond its end")
        table, metadata = _parsed(header)
        entries = _checked(table, size - 8 - length)
        content: dict[str, Tensor] = {}
        for name, (dtype, shape) in entries.items():
            flat = torch.empty(math.prod(shape), dtype=dtype)
            read_into(file, flat.view(torch.uint8).numpy().data, name[:80])
            content[name] = flat.view(shape)
    return dict(sorted(content.items())), metadata


def _parsed(header: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        table = json.loads(header.decode("utf-8"), object_pairs_hook=_once)
    except PickleError:
        raise
    except (ValueError, RecursionError) as error:
        raise PickleError(f"its header is no JSON ({str(error)[:120]})") from None
    if not isinstance(table, dict):
        raise PickleError("its header is no table")
    metadata = table.pop(_META, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise PickleError("its metadata are no texts")
    if len(table) > MAX_TENSORS:
        raise PickleError(f"it holds more than {MAX_TENSORS:,} tensors")
    return table, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise PickleError("a key stands twice in its header")
    return table


def _checked(table: dict[str, Any], room: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """{key: (dtype, shape)} in the order of the bytes, once every byte belongs to one tensor."""
    found, end = {}, 0
    places = {name: _place(checked_name(name), entry) for name, entry in table.items()}
    for name in sorted(places, key=lambda name: places[name]):
        begin, stop = places[name]
        entry = table[name]
        dtype, shape = DTYPES.get(str(entry.get("dtype"))[:20]), entry.get("shape")
        if dtype is None:
            raise PickleError(f"it holds numbers of a kind that fdlab does not read ({str(entry.get('dtype'))[:20]})")
        if not (isinstance(shape, list) and len(shape) <= MAX_DIMS and all(map(_is_count, shape))):
            raise PickleError(f"{name[:80]} has no shape")
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise PickleError(f"the place of {name[:80]} does not fit its shape or its neighbours")
        found[name], end = (dtype, tuple(shape)), stop
    if end != room:
        short = "it is cut short" if end > room else "its header does not cover it"
        raise PickleError(f"{short}: {end:,} bytes of tensors in {max(room, 0):,}")
    return found


def _place(name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise PickleError(f"{name[:80]} has no place")
    return offsets[0], offsets[1]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
