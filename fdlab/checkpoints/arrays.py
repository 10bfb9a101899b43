"""numpy's arrays as tensors: those in a pickle (detectron2), and the ``.npz`` archives of JAX code.

Arrays of objects are refused: their bytes are a pickle of their own.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.checkpoints.limits import MAX_TENSORS, checked_name
from fdlab.checkpoints.pickles import Stub
from fdlab.checkpoints.storages import MAX_DIMS, PickleError
from fdlab.checkpoints.zips import Zip

MAX_NESTED = 4  # how deep tables of arrays are looked for
_MAKERS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")  # pickle's protocol 5
NAMES = frozenset({*_MAKERS, *_FROM_BUFFER, "numpy.ndarray"})


def with_arrays(content: Any, depth: int = 0) -> Any:
    """The content with numpy's pickled arrays as tensors, in tables within tables."""
    if isinstance(content, Stub) and content.name in _MAKERS:
        return _array(content.state)
    if isinstance(content, Stub) and content.name in _FROM_BUFFER and isinstance(content.args, tuple):
        buffer, dtype, shape, order = (*content.args, None, None, None, None)[:4]
        raw = bytes(buffer) if isinstance(buffer, (bytes, bytearray)) else None
        return _array((1, shape, dtype, order == "F", raw))
    if isinstance(content, dict) and depth < MAX_NESTED:
        for key, value in content.items():
            if isinstance(value, dict):  # a stub is one, too
                content[key] = with_arrays(value, depth + 1)
    return content


def _array(state: Any) -> Tensor:
    """The tensor of an array's pickled state: (version, shape, dtype, whether by columns, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise PickleError("an array in it has no numbers")
    _version, shape, dtype, by_columns, raw = state
    counts = (
        isinstance(shape, tuple) and len(shape) <= MAX_DIMS and all(type(n) is int and 0 <= n < 2**62 for n in shape)
    )
    if not (counts and isinstance(dtype, np.dtype) and isinstance(raw, bytes)):
        raise PickleError("an array in it has no shape, or holds something else than numbers")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise PickleError(f"an array in it, {shape}, is not of the size of its {len(raw)} bytes")
    return as_tensor(np.frombuffer(raw, dtype).reshape(shape, order="F" if by_columns else "C"))


def as_tensor(array: np.ndarray) -> Tensor:
    """The array in numbers that torch has; JAX's bfloat16 is two bytes without a name of their own."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(array.view(np.uint16).astype(np.int32)).to(torch.int32).mul(65536).view(torch.float32)
    if array.dtype.kind not in "biuf":
        raise PickleError(f"it holds an array of {array.dtype}, which are no numbers")
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def read_npz(path: Path) -> dict[str, Tensor]:
    """{dotted name: tensor} of an archive of arrays; nothing in it is executed.

    Raises:
        PickleError: damaged, beyond the limits, or with arrays of objects.
    """
    found: dict[str, Tensor] = {}
    with path.open("rb") as file:
        archive = Zip(file)
        entries = [name for name in archive.entries if name.endswith(".npy")]
        if len(entries) > MAX_TENSORS:
            raise PickleError(f"it holds more than {MAX_TENSORS:,} tensors")
        for entry in entries:
            name = checked_name(entry.removesuffix(".npy").replace("/", "."))
            try:
                array = _of_bytes(archive.flat(entry).numpy())
            except (ValueError, EOFError, SyntaxError, TypeError) as error:
                raise PickleError(f"its array {name[:80]} is damaged or of objects ({str(error)[:120]})") from error
            found[name] = as_tensor(array)
    return found


def _of_bytes(data: np.ndarray) -> np.ndarray:
    """The array of a ``.npy`` file's bytes, as a view of them."""
    head = io.BytesIO(data[:20_000].tobytes())  # numpy's headers have at most 10,000 bytes
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(head)
    if dtype.hasobject:
        raise ValueError("objects")
    if (
        len(shape) > MAX_DIMS
        or math.prod(shape) * dtype.itemsize != len(data) - head.tell()
        or min(shape, default=0) < 0
    ):
        raise ValueError(f"its shape {str(shape)[:80]} is not of the size of its bytes")
    return data[head.tell() :].view(dtype).reshape(shape, order="F" if by_columns else "C")
