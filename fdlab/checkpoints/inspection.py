"""What ``fdlab inspect`` shows: the facts of an open model, and the structure of a file that is refused.

The structure is made to be sent to someone: names, shapes and types, never a weight, a path or a setting.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from fdlab.checkpoints.stock import stock_name
from fdlab.checkpoints.unpickle import WeightFile, read_weights
from fdlab.checkpoints.zips import Zip
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError

MAX_LINES = 20_000


def facts(encoder: Encoder) -> dict[str, Any]:
    """The encoder's info with where the heads come from and the stock timm name that fits.

    ``timm_name`` is None where no name of timm has this architecture; ``timm_line`` is then the nearest
    name with the arguments that make it fit (None for classes that timm lacks).
    """
    found = asdict(encoder.info)
    found["heads_from"] = heads_from(encoder)
    found["inferred"] = encoder.explain().splitlines() if encoder.anatomy.said else []
    name = stock_name(encoder.call) if encoder.call is not None else None
    if name is not None:
        found["timm_name"] = name.name if name.fits else None
        found["timm_line"] = name.line("EXPORTED.safetensors")
    else:
        found["timm_line"] = None
    return found


def heads_from(encoder: Encoder) -> str:
    """The sentence that says where the head count comes from."""
    if encoder.info.heads_from:
        return encoder.info.heads_from
    said = next((text for text in encoder.info.assumed if text.startswith("heads")), None)
    return said.partition(": ")[2] if said and ": " in said else said or "the file"


def structure(path: Path, error: FdlabError | None = None) -> dict[str, Any]:
    """Names, shapes and types in a file, with the refusal; for a report of a layout that is not known."""
    import timm
    import torch

    from fdlab.version import __version__

    versions = {"fdlab": __version__, "torch": torch.__version__, "timm": timm.__version__}
    found: dict[str, Any] = {"versions": {**versions, "python": platform.python_version()}, "file": path.name}
    if error is not None:
        found["refusal"] = [text.replace(str(path), path.name) for text in (error.what, error.why, error.fix)]
    if path.is_file():
        found |= {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    try:
        file = read_weights(path)
    except FdlabError as unreadable:
        found["unreadable"] = unreadable.why.replace(str(path), path.name)
        return found | _outside(path)
    found |= {"kind": file.kind, "names_in_pickle": list(file.seen), "not_loaded": list(file.stubs)}
    found["metadata_keys"] = sorted(file.metadata)
    found["configs"] = {name: sorted(map(str, table)) for name, table in file.configs.items()}
    lines = list(_lines(file))
    found["content"] = dict(lines[:MAX_LINES])
    found["left_out"] = max(len(lines) - MAX_LINES, 0)
    return found


def write_structure(path: Path, out: Path, error: FdlabError | None = None) -> None:
    """``structure`` as a JSON file."""
    out.write_text(json.dumps(structure(path, error), indent=1) + "\n", encoding="utf-8")


def _lines(file: WeightFile) -> Iterator[tuple[str, str]]:
    """(dotted name, ``dtype shape`` or type); tables that occur twice are listed once."""
    open_: list[tuple[str, Any]] = [("", file.content)]
    visited: set[int] = set()
    count = 0
    while open_ and count <= 2 * MAX_LINES:
        name, value = open_.pop()
        if isinstance(value, Tensor):
            count += 1
            yield name, f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        elif isinstance(value, Mapping) and value and id(value) not in visited and name.count(".") < 12:
            visited.add(id(value))
            items = list(value.items())[: 2 * MAX_LINES]
            open_ += [(f"{name}.{str(key)[:120]}".removeprefix("."), part) for key, part in reversed(items)]
        else:
            count += 1
            yield name, type(value).__name__


def _outside(path: Path) -> dict[str, Any]:
    """What can be said of a file that cannot be read: its first bytes, a zip's names."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        found: dict[str, Any] = {"first_bytes": file.read(16).hex()}
    try:
        with path.open("rb") as file:
            found["zip_names"] = [name[:120] for name in list(Zip(file).entries)[:200]]
    except Exception:  # not a zip, or damaged in one of many ways
        found["zip_names"] = []
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
