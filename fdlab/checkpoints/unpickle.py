"""Reading weight files without running anything in them.

The first bytes decide what a file is, whatever its name. Torch files go through ``archives`` and its
pickle machine, which knows tensors and plain containers and makes every other name an inert stub. An open
load does not exist here. Folders of Hugging Face, timm, open_clip and DeepSpeed are read as one file.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdlab.checkpoints.archives import Archive, read_legacy, read_zip
from fdlab.checkpoints.arrays import read_npz
from fdlab.checkpoints.distributed import METADATA, read_distributed
from fdlab.checkpoints.limits import MAX_JSON
from fdlab.checkpoints.pickles import Stub
from fdlab.checkpoints.safetensors_file import read_safetensors
from fdlab.checkpoints.storages import PickleError, Quantised
from fdlab.checkpoints.zips import Zip
from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, FdlabError

AGAIN = "Download or copy the file again and compare its size and checksum with the source's."
WEIGHTS_OF_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "mp_rank_00_model_states.pt",
)
CONFIGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")


@dataclass(frozen=True)
class WeightFile:
    """What a file or folder holds.

    Attributes:
        content: the tables as saved. Tensors may be views of the mapped file: copy what is kept.
        kind: ``safetensors``, ``torch zip``, ``torch legacy``, ``TorchScript archive``, ``... folder``.
        stubs: names in the pickle that were not loaded.
        seen: all names in the pickle.
        configs: {file name: its JSON} that lie beside weights of a standard name, e.g. ``config.json``.
    """

    path: Path
    content: Mapping[str, Any]
    kind: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    stubs: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_weights(path: str | Path) -> WeightFile:
    """The content of a safetensors or torch file (zip, TorchScript, legacy) or folder, tensors on the CPU.

    Raises:
        FdlabError: code 3; the file is missing, empty, cut short, a pointer, a web page, of another
            format, or beyond the limits of ``pickles`` and ``archives``.
    """
    path = Path(path)
    try:
        return _read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:  # permissions, names that are too long
        fix = "Check its permissions." if isinstance(error, PermissionError) else AGAIN
        raise refusal(path, "cannot be read.", f"{error.strerror or type(error).__name__}.", fix) from error


def _read_file(path: Path) -> WeightFile:
    kind = sniff(path)
    try:
        if kind == "safetensors":
            return _read_safetensors(path)
        if kind == "numpy archive":
            return WeightFile(path, read_npz(path), kind)
        found = read_zip(path) if kind == "torch zip" else read_legacy(path)
    except MemoryError as error:
        raise FdlabError(f"{path} does not fit into memory.", str(error), code=OUT_OF_SPACE) from error
    except (FdlabError, PermissionError):
        raise
    except Quantised as error:
        fix = "Give the weights as they were before quantisation."
        raise refusal(path, "is quantised.", _reason(error, kind), fix) from error
    except Exception as error:  # a damaged file can fail anywhere in a reader
        raise FdlabError(f"{path} cannot be read.", _reason(error, kind), AGAIN, code=NOT_UNDERSTOOD) from error
    return _as_file(path, found)


def _as_file(path: Path, found: Archive) -> WeightFile:
    if not isinstance(found.content, Mapping):
        held = found.content.name if isinstance(found.content, Stub) else type(found.content).__name__
        raise FdlabError(
            f"{path} holds no table of weights.",
            f"It holds a {str(held)[:80]}.",
            "Save the model's state_dict() instead.",
            code=NOT_UNDERSTOOD,
        )
    configs = _configs(path.parent) if path.name in WEIGHTS_OF_FOLDERS else {}
    return WeightFile(path, found.content, found.kind, stubs=found.stubs, seen=found.seen, configs=configs)


def sniff(path: Path) -> str:
    """``safetensors``, ``torch zip`` or ``torch legacy`` by the first bytes; an error for all else."""
    if not path.exists():
        raise refusal(path, "does not exist.", "No file has this name.", "Check the path.")
    if not path.is_file():
        raise refusal(path, "is no file.", "It is a folder or a device.", "Give a weight file.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise refusal(path, "cannot be opened.", str(error), "Check its permissions.") from error
    if not start:
        raise refusal(path, "is empty.", "It has 0 bytes.", AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise refusal(path, "is a git-lfs pointer.", "The weights are not downloaded.", "Run: git lfs pull")
    if start.lstrip().startswith(b"<"):
        raise refusal(path, "is a web page (HTML).", "The server answered with a page, not with the weights.", AGAIN)
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "safetensors"
    if start.startswith(b"PK"):
        return _sniff_zip(path)
    if start.startswith(b"\x80"):
        return "torch legacy"
    packed = {
        b"\x1f\x8b": "gzip",
        b"BZh": "bzip2",
        b"\xfd7zXZ": "xz",
        b"7z\xbc\xaf": "7-Zip",
        b"\x28\xb5\x2f\xfd": "zstd",
    }
    name = next((name for magic, name in packed.items() if start.startswith(magic)), None)
    if name is None and start[257:262] == b"ustar":
        name = "tar"
    if name:
        raise refusal(
            path, f"is a {name} archive.", "fdlab does not unpack archives.", "Unpack it; give the file inside."
        )
    if start.startswith((b"\x89HDF", b"\x93NUMPY")):
        why = "fdlab reads torch and safetensors files, and .npz archives of JAX."
        raise refusal(path, "is a Keras file or one numpy array.", why, "Convert it.")
    raise refusal(
        path,
        "is no weight file that fdlab reads.",
        f"It starts with {start[:8]!r}.",
        "Give a safetensors file or a torch file (.pth, .pt, .bin, .tar).",
    )


def refusal(path: Path, what: str, why: str = "", fix: str = "") -> FdlabError:
    """The error (code 3) of a file that is not read."""
    return FdlabError(f"{path} {what}", why, fix, code=NOT_UNDERSTOOD)


def _sniff_zip(path: Path) -> str:
    try:
        with path.open("rb") as file:
            names = list(Zip(file).entries)
    except PickleError as error:
        raise refusal(path, "is no weight file.", f"Its zip directory: {error}.", AGAIN) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise refusal(path, "is cut short or damaged.", f"Its zip directory is missing ({error}).", AGAIN) from error
    if any(name.endswith(".npy") for name in names) and all(name.endswith((".npy", "/")) for name in names):
        return "numpy archive"
    if not any(name.endswith("data.pkl") for name in names):
        raise refusal(
            path,
            "is a zip file without weights.",
            f"It holds {', '.join(name[:60] for name in names[:3]) or 'nothing'}.",
            "Unpack it and give the weight file inside.",
        )
    return "torch zip"


def _read_safetensors(path: Path) -> WeightFile:
    content, metadata = read_safetensors(path)
    configs = _configs(path.parent) if path.name in WEIGHTS_OF_FOLDERS else {}
    return WeightFile(path, content, "safetensors", metadata, configs=configs)


def _read_folder(folder: Path) -> WeightFile:
    """A folder with weights of a standard name, else with exactly one weight file."""
    chosen = next((folder / name for name in WEIGHTS_OF_FOLDERS if (folder / name).is_file()), None)
    if chosen is None and (folder / METADATA).is_file() and any(folder.glob("*.distcp")):
        return _read_distributed(folder)
    if chosen is None:
        endings = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt", ".npz", ".pkl")
        files = sorted(file for file in folder.iterdir() if file.suffix in endings and file.is_file())
        if len(files) != 1:
            why = f"It holds {len(files)} weight files{': ' + ', '.join(f.name for f in files[:4]) if files else ''}."
            inner = _folders_with_weights(folder)
            if not files and inner:
                why = f"Its folders hold weights: {', '.join(path.name for path in inner[:6])}."
                raise refusal(folder, "is a folder of checkpoints.", why, f"Give one of them: {inner[-1]}")
            raise refusal(folder, "is a folder without a clear weight file.", why, "Give the file itself.")
        chosen = files[0]
    if chosen.name.endswith(".index.json"):
        content, metadata = _read_shards(chosen)
        return WeightFile(folder, content, "sharded folder", metadata, configs=_configs(folder))
    file = _read_file(chosen)
    return WeightFile(
        folder, file.content, f"{file.kind} folder", file.metadata, file.stubs, file.seen, _configs(folder)
    )


def _folders_with_weights(folder: Path) -> list[Path]:
    """The folders one level below that can be given instead (a trainer's checkpoint-500), by their last number."""
    names = (*WEIGHTS_OF_FOLDERS, METADATA)
    found = (path for path in folder.iterdir() if path.is_dir() and any((path / name).is_file() for name in names))
    return sorted(found, key=lambda path: ([int(n) for n in re.findall(r"\d+", path.name)][-1:], path.name))


def _read_distributed(folder: Path) -> WeightFile:
    try:
        content = read_distributed(folder)
    except MemoryError as error:
        raise FdlabError(f"{folder} does not fit into memory.", str(error), code=OUT_OF_SPACE) from error
    except Exception as error:  # a damaged folder can fail anywhere in a reader
        why = _reason(error, "distributed checkpoint")
        fix = f"{AGAIN} Or write one file: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        raise FdlabError(f"{folder} cannot be read.", why, fix, code=NOT_UNDERSTOOD) from error
    return WeightFile(folder, content, "distributed checkpoint folder")


def read_index(index: Path) -> dict[str, str]:
    """{tensor: the file beside the index that holds it}.

    Raises:
        FdlabError: code 3, it is no index, or names a file elsewhere.
    """
    table = _json(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise refusal(index, "is no index of shards.", "It has no table weight_map of file names.", AGAIN)
    if away := next((name for name in table.values() if Path(name).name != name), None):
        raise refusal(index, "is refused.", f"It names {away[:80]!r}, which is not beside it.", AGAIN)
    return table


def _read_shards(index: Path) -> tuple[dict[str, Any], dict[str, str]]:
    table = read_index(index)
    content: dict[str, Any] = {}
    for name in sorted(set(table.values())):
        content |= _read_file(index.parent / name).content
    missing = set(table) - set(content)
    if missing:
        raise refusal(index, "is not complete.", f"Keys are missing: {', '.join(sorted(missing)[:4])}.", AGAIN)
    return content, {}


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: _json(folder / name) for name in CONFIGS if (folder / name).is_file()}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it is larger than {MAX_JSON >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refusal(path, "cannot be read.", f"It is no JSON: {str(error)[:120]}.", AGAIN) from error
    return found if isinstance(found, dict) else {}


def _reason(error: Exception, kind: str) -> str:
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, PickleError):
        return f"{kind}: {text[:240]}."
    short = (
        "EOF",
        "truncated",
        "central directory",
        "not fully covered",
        "invalid header",
        "HeaderTooSmall",
        "HeaderTooLarge",
    )
    if isinstance(error, EOFError) or any(sign in text for sign in (*short, "InvalidHeader", "Ran out of input")):
        return f"It is cut short ({kind}: {text[:200]})."
    return f"{kind}: {type(error).__name__}: {text[:200]}"


def fdlab_metadata(file: WeightFile) -> dict[str, Any] | None:
    """The ``fdlab`` entry of a file that this program wrote, else None."""
    text = file.metadata.get("fdlab")
    if text is None:
        return None
    try:
        found = json.loads(text) if len(text) <= MAX_JSON else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise FdlabError(
            f"{file.path} has a damaged description.", "Its fdlab metadata is not JSON.", AGAIN, code=NOT_UNDERSTOOD
        )
    return found
