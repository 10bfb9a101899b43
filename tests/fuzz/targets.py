"""What is fuzzed: a reader, and whole inputs to begin with. A reader gives a value or raises one of its errors."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))
from hostile_files import call, make_bases, zipped

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.pickles import Machine
from fdlab.checkpoints.recognise import recognise
from fdlab.checkpoints.storages import PickleError
from fdlab.checkpoints.unpickle import WeightFile, read_weights
from fdlab.data.decode import Unreadable
from fdlab.data.tars import Tars
from fdlab.errors import FdlabError


@dataclass(frozen=True)
class Target:
    """``run(data)`` raises only ``FdlabError`` and its like; ``seeds(folder)`` are inputs to begin with."""

    run: Callable[[bytes], object]
    seeds: Callable[[Path], list[bytes]]


def _file(data: bytes, ending: str) -> Path:
    path = Path(tempfile.gettempdir()) / f"fdlab-fuzz{ending}"
    path.write_bytes(data)
    return path


def _pickle(data: bytes) -> object:
    try:
        return Machine(data).run()
    except PickleError:
        return None


def _weights(data: bytes) -> object:
    """Archives and safetensors through the front door, by their first bytes."""
    try:
        return Contents.of(read_weights(_file(data, ".pth")).content)
    except (FdlabError, PickleError):
        return None


def _opened(data: bytes) -> object:
    try:
        return open_model(_file(data, ".pth"), heads=2)
    except FdlabError:
        return None


SHAPES = [(16,), (16, 16), (48, 16), (48,), (64, 16), (64,), (16, 64), (1, 5, 16), (1, 1, 16), (16, 3, 4, 4), (0,), ()]


def _recognised(data: bytes) -> object:
    """Lines of text are keys; each has a shape by its last byte. Words of a file follow after an empty line."""
    keys, _, words = data.partition(b"\n\n")
    table = {
        line[:-1].decode("latin1"): torch.zeros(SHAPES[line[-1] % len(SHAPES)]) for line in keys.split(b"\n") if line
    }
    try:
        args = json.loads(words)
    except (ValueError, RecursionError):
        args = {}
    content = {"model": table, "args": args} if words[:1] == b"{" else {**table, "arch": words.decode("latin1")[:50]}
    configs = {"config.json": args} if words[:2] == b"{\n" and isinstance(args, dict) else {}
    try:
        return recognise(WeightFile(Path("x.pth"), content, "torch zip", configs=configs), heads=2)
    except (FdlabError, PickleError):
        return None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # what ``open_model`` turns into an error of the file


def _tar(data: bytes) -> object:
    try:
        source = Tars([_file(data, ".tar")])
    except (FdlabError, Unreadable, OSError):
        return None
    for index in range(min(len(source), 4)):
        try:
            source.read(index)
        except (Unreadable, FdlabError, OSError):
            continue
    return source


def _pickles(folder: Path) -> list[bytes]:
    import random

    values = [{"a": 1, "b": [1.5, None, True, b"x"], 3: (1, (2,), {4})}, torch.Size([2]), {"x": {"y": {}}}]
    draw = random.Random(0)
    whole = [pickle.dumps(value, protocol) for value in values for protocol in range(6)]
    return whole + [b"\x80\x02" + call(draw, folder / "canary") + b"." for _ in range(20)]


def _archives(folder: Path) -> list[bytes]:
    bases = make_bases(folder)
    array = io.BytesIO()
    import numpy as np

    np.savez(array, w=np.arange(6.0).reshape(2, 3))
    deflated = zipped({"a/data.pkl": pickle.dumps({"x": 1}, 2), "a/version": b"3\n"}, zipfile.ZIP_DEFLATED)
    return [*bases.values(), array.getvalue(), deflated]


def _layouts(_folder: Path) -> list[bytes]:
    from fdlab.encoders.student import Design, build

    keys = list(build(Design(8, 4, 16, 1, 2, position="learned", class_token=True), seed=0).state_dict())
    lines = b"".join(key.encode() + bytes([n % 12]) + b"\n" for n, key in enumerate(keys) if "\n" not in key)
    return [
        lines,
        lines + b"\nvit_tiny_patch16_224",
        lines + b'\n{"model": "vit_tiny_patch16_224", "model_kwargs": {"depth": 2}}',
        lines + b'\n{\n"architecture": "resnet50", "model_args": {"layers": [1, 2, 3, 4]}}',
        lines + b'\n{\n"model_type": "vit", "num_attention_heads": 2, "layer_norm_eps": 1e-6, "image_size": 8}',
    ]


def _tars(_folder: Path) -> list[bytes]:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(picture, "PNG")
    found = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for number in range(2):
                for ending, data in (("png", picture.getvalue()), ("cls", b"3"), ("json", b'{"label": 1}')):
                    entry = tarfile.TarInfo(f"{'n' * 90 * number}{number}.{ending}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
        found.append(out.getvalue())
    return found


def _flat(folder: Path) -> list[bytes]:
    bases = make_bases(folder)
    header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"fdlab": "{}"}}
    text = json.dumps(header).encode()
    return [bases["safetensors"], bases["own"], struct.pack("<Q", len(text)) + text + bytes(16)]


TARGETS = {
    "pickle": Target(_pickle, _pickles),
    "archive": Target(_weights, _archives),
    "safetensors": Target(_opened, _flat),
    "recognise": Target(_recognised, _layouts),
    "tar": Target(_tar, _tars),
}
