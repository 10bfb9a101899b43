"""Modules whose parameters are about to come from a file: made without drawing initial values, and no larger than it.

A ViT-B spends more time on its random start than on reading its weights. Buffers are computed as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

_FILLS = frozenset(
    ["uniform_", "normal_", "trunc_normal_", "erfinv_", "mul_", "div_", "add_", "clamp_", "fill_", "zero_"]
)


class _Unfilled(TorchFunctionMode):
    """In-place fills of parameters and ``torch.nn.init`` do nothing inside."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        if isinstance(target, nn.Parameter):
            name, home = getattr(func, "__name__", ""), getattr(func, "__module__", "")
            if name in _FILLS or home == "torch.nn.init":
                return target
        return func(*args, **kwargs)


def blank(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` with undefined parameters: every one of them must be loaded before use."""
    with _Unfilled():
        return make()


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Loads every tensor strictly. One that alone fills its storage becomes the parameter itself, without a copy.

    The caller gives ``state`` away: these tensors train with the module.
    """
    own = module.state_dict()
    places = [tensor.data_ptr() for tensor in own.values() if tensor.numel()]
    taken: set[int] = set()
    ready = {}
    for key, tensor in state.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.itemsize
        alone = whole and storage.data_ptr() not in taken and tensor.dtype == own.get(key, tensor).dtype
        taken.add(storage.data_ptr())
        ready[key] = tensor if alone else tensor.to(own.get(key, tensor).dtype, copy=True).contiguous()
    module.load_state_dict(ready, strict=True, assign=len(set(places)) == len(places))
    return module


PARTS_EACH, PARTS = 8, 500  # modules for each tensor of a file, and besides: a block has about one for each tensor
LARGEST = 2**15  # all counts among the arguments together: widths, blocks, windows
WIDE = {"num_classes": 2**22, "img_size": 2**15, "input_size": 2**15, "pretrained_cfg_overlay": 2**15}  # those apart


class TooLarge(ValueError):
    """Words name a network that has many times the parts that its file could fill."""


@contextmanager
def no_larger_than(state: Mapping[str, Any], arguments: Mapping[str, Any] | tuple[()] = ()) -> Iterator[None]:
    """Stands around the making of a network from a file's words: sizes are compared before they cost anything.

    Raises:
        TooLarge: the arguments name sizes that no network has, or more parts are made than the tensors of ``state``
            are for.
    """
    named = dict(arguments)
    apart = {name: named.pop(name) for name in WIDE if name in named}
    if _sum(named) > LARGEST or any(_sum(value) > WIDE[name] for name, value in apart.items()):
        raise TooLarge("its words name sizes that no network has")
    left = PARTS_EACH * len(state) + PARTS

    def count(_module: Any, _name: str, _part: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise TooLarge(f"its words name a network that is much larger than its {len(state)} tensors")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _sum(value: Any) -> float:
    """The sum of all counts in arguments, without their signs."""
    if isinstance(value, Mapping):
        return sum(_sum(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(map(_sum, value))
    return abs(value) if isinstance(value, int) else 0


def unfitting(
    make: Callable[[], nn.Module], state: Mapping[str, Tensor], arguments: Mapping[str, Any] | tuple[()] = ()
) -> list[str]:
    """Keys that are missing, not known or of another shape; made without memory, so before anything is."""
    with torch.device("meta"), no_larger_than(state, arguments):
        wanted = {key: tuple(tensor.shape) for key, tensor in blank(make).state_dict().items()}
    missing = [f"{key} is missing" for key in wanted if key not in state]
    extra = [f"{key} is not known" for key in state if key not in wanted]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    return missing + extra + shapes
