"""torch's kinds of numbers by their names in a file, and tensors as views of stored numbers that stay inside them."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_DIMS = 16

DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


class PickleError(ValueError):
    """The pickle is damaged, or larger than the limits."""


class Quantised(PickleError):
    """The file's numbers are codes in few bits."""


def tensor_view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A view of the storage, inside it and with every element at a place of its own."""
    if not isinstance(storage, Tensor) or len(size) != len(stride) or len(size) > MAX_DIMS:
        raise PickleError("a tensor in it has no storage or shape")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise PickleError("a tensor in it has a shape that is not made of counts")
    count = 1
    for length in size:
        count *= length
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else 0
    if count > storage.numel() or last > max(storage.numel() - 1, 0) or (count and not storage.numel()):
        raise PickleError(f"a tensor in it, {tuple(size)}, is larger than its {storage.numel()} stored numbers")
    return torch.as_strided(storage, size, stride, offset) if count else storage.new_empty(size)
