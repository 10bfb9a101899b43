"""Reading weight files without running anything in them.

The first bytes decide what a file is, whatever its name. Pickles go through torch's weights-only
reader, then through a reader that knows tensors and plain containers and makes every other name an
inert stub. An open load does not exist here.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import types
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, FdlabError

AGAIN = "Download or copy the file again and compare its size and checksum with the source's."


@dataclass(frozen=True)
class WeightFile:
    """What a file holds. ``stubs`` names the classes that were read as inert stubs."""

    path: Path
    content: Mapping[str, Any]
    kind: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    stubs: tuple[str, ...] = ()


def read_weights(path: str | Path) -> WeightFile:
    """The content of a safetensors or torch file (zip or legacy), tensors on the CPU.

    Raises:
        FdlabError: code 3; the file is missing, empty, cut short, a pointer, a web page or another format.
    """
    path = Path(path)
    kind = sniff(path)
    try:
        if kind == "safetensors":
            return _read_safetensors(path)
        content, stubs = _read_pickle(path, mmap=kind == "torch zip")
    except MemoryError as error:
        raise FdlabError(f"{path} does not fit into memory.", str(error), "", OUT_OF_SPACE) from error
    except FdlabError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in a reader
        raise FdlabError(f"{path} cannot be read.", _reason(error, kind), AGAIN, NOT_UNDERSTOOD) from error
    if not isinstance(content, Mapping):
        raise FdlabError(
            f"{path} holds no table of weights.",
            f"It holds a {type(content).__name__}.",
            "Save the model's state_dict() instead.",
            NOT_UNDERSTOOD,
        )
    return WeightFile(path, content, kind, stubs=stubs)


def sniff(path: Path) -> str:
    """``safetensors``, ``torch zip`` or ``torch legacy`` by the first bytes; an error for all else."""

    def refuse(what: str, why: str, fix: str = AGAIN) -> FdlabError:
        return FdlabError(f"{path} {what}", why, fix, NOT_UNDERSTOOD)

    if not path.exists():
        raise refuse("does not exist.", "No file has this name.", "Check the path.")
    if path.is_dir():
        raise refuse("is a folder.", "A weight file is expected.", "Give the file inside it, or a run folder.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise refuse("cannot be opened.", str(error), "Check its permissions.") from error
    if not start:
        raise refuse("is empty.", "It has 0 bytes.")
    if start.startswith(b"version https://git-lfs"):
        raise refuse("is a git-lfs pointer.", "The weights themselves were not downloaded.", "Run: git lfs pull")
    if start.lstrip().startswith(b"<"):
        raise refuse("is a web page (HTML).", "The server answered with a page, not with the weights.")
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "safetensors"
    if start.startswith(b"PK"):
        return _sniff_zip(path, refuse)
    if start.startswith(b"\x80"):
        return "torch legacy"
    raise refuse(
        "is no weight file that fdlab reads.",
        f"It starts with {start[:8]!r}.",
        "Give a safetensors file or a torch file (.pth, .pt, .bin, .tar).",
    )


def _sniff_zip(path: Path, refuse: Any) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise refuse("is cut short or damaged.", f"Its zip directory is missing ({error}).") from error
    if any(name.endswith("constants.pkl") for name in names):
        # torch.load would hand such a file to torch.jit.load, which can run code stored in it.
        raise refuse(
            "is a TorchScript archive.",
            "It holds code, which fdlab does not load.",
            "Save the weights elsewhere: torch.save(torch.jit.load(FILE).state_dict(), NEW).",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise refuse(
            "is a zip file without weights.",
            f"It holds {', '.join(names[:3]) or 'nothing'}.",
            "Unpack it and give the weight file inside.",
        )
    return "torch zip"


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return WeightFile(path, content, "safetensors", file.metadata() or {})


def _read_pickle(path: Path, *, mmap: bool) -> tuple[Any, tuple[str, ...]]:
    """The weights-only reader first, then the inert one."""
    settings: dict[str, Any] = {"map_location": "cpu", "mmap": mmap}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickle protocols, then reads or refuses them
            return torch.load(path, weights_only=True, **settings), ()
    except pickle.UnpicklingError:
        stubs: list[str] = []
        # The one place that leans on how torch.load uses its pickle module: it subclasses Unpickler.
        reader = _inert_pickle(stubs)
        content = torch.load(path, weights_only=False, pickle_module=reader, **settings)
        return content, tuple(dict.fromkeys(stubs))


# Names that build tensors and plain containers. torch.storage._load_from_bytes must stay out: an open load.
_TORCH = {name: getattr(torch._utils, name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    **{("torch._utils", name): function for name, function in _TORCH.items()},
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{
        ("torch", name): value
        for name, value in vars(torch).items()
        if name.endswith("Storage") and isinstance(value, type)
    },
    ("torch.storage", "UntypedStorage"): torch.storage.UntypedStorage,
}


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What ``_codecs.encode`` does in pickles; no other codec is looked up."""
    return text.encode(encoding if encoding in ("latin1", "utf-8", "ascii") else "latin1", "replace")


class _Inert(dict):  # a dict, so that dict subclasses keep their items
    """Stands for a class or function that is not allowed: accepts everything, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, _state: Any) -> None: ...

    def append(self, _item: Any) -> None: ...

    def extend(self, _items: Any) -> None: ...

    def add(self, _item: Any) -> None: ...

    def __call__(self, *_args: Any, **_kwargs: Any) -> _Inert:
        return _Inert()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def _inert_pickle(stubs: list[str]) -> Any:
    """A stand-in for the pickle module whose reader knows only the allowed names."""

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("_codecs", "encode"):
                return _encode
            if (module, name) in _ALLOWED:
                return _ALLOWED[module, name]
            stubs.append(f"{module}.{name}")
            return type(name.split(".")[-1] or "stub", (_Inert,), {"__module__": module})

    def load(file: Any, **settings: Any) -> Any:
        return Reader(file, **settings).load()

    return types.SimpleNamespace(Unpickler=Reader, load=load, __name__="inert")


def _reason(error: Exception, kind: str) -> str:
    text = (str(error).splitlines() or [""])[0]
    if "magic number" in text:
        return "It is a pickle, but not one that torch.save wrote."
    short = (
        "EOF",
        "truncated",
        "central directory",
        "not fully covered",
        "invalid header",
        "HeaderTooSmall",
        "InvalidHeader",
        "Ran out of input",
    )
    if isinstance(error, EOFError) or any(sign in text for sign in short):
        return f"It is cut short ({kind}: {text})."
    return f"{kind}: {type(error).__name__}: {text[:200]}"


def fdlab_metadata(file: WeightFile) -> dict[str, Any] | None:
    """The ``fdlab`` entry of a file that this program wrote, else None."""
    text = file.metadata.get("fdlab")
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FdlabError(
            f"{file.path} has a damaged description.",
            "Its fdlab metadata is not JSON.",
            AGAIN,
            NOT_UNDERSTOOD,
        )
    return found
