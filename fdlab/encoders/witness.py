"""Sees every operation of one forward pass, however it was called, and can take all attention out of it.

A ``TorchDispatchMode`` sits below torch's functions: an ``scaled_dot_product_attention`` that was imported by name,
an einsum, ``nn.MultiheadAttention`` and the fused kernels all pass it. It works under ``no_grad``; under
``inference_mode`` it would see composite operations whole and no attention at all.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

# (query, key, value, ...) -> output or (output, ...)
FUSED = {
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_attention_math_for_mps",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
}
_SOFTMAX = {"aten::_softmax", "aten::_safe_softmax", "aten::softmax"}
_WHOLE = {"aten::_transformer_encoder_layer_fwd", "aten::_native_multi_head_attention"}
_PRODUCTS = {"aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm", "aten::matmul"}
# what hands a map on without changing its values
_SAME = {
    "view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "clone", "_to_copy", "alias", "detach",
    "contiguous", "squeeze", "unsqueeze", "_reshape_alias", "native_dropout", "slice", "copy", "lift_fresh",
}  # fmt: skip


@dataclass
class Seen:
    """One attention: where it was, between how many queries and keys, and whether its map was applied as it is."""

    stack: tuple[str, ...]  # the modules that were running, the outermost first
    shape: tuple[int, ...]  # of queries or logits, as they came
    queries: int
    keys: int
    fused: bool
    applied: bool
    diagonal: Tensor | None = None  # one number a token, which changes with the token

    @property
    def square(self) -> bool:
        return self.queries == self.keys > 1

    @property
    def around(self) -> str:
        """The module that holds its owner: products and softmax may be in different parts of one attention."""
        return self.owner.rpartition(".")[0]

    @property
    def owner(self) -> str:
        return self.stack[-1] if self.stack else ""


@dataclass
class Pass:
    """What one forward pass did."""

    output: Any = None
    calls: list[Seen] = field(default_factory=list)
    ended: list[tuple[str, Any]] = field(default_factory=list)  # (module, its output), in the order of completion
    foreign: list[tuple[str, str]] = field(default_factory=list)  # (module, operation) from outside of torch
    unread: list[str] = field(default_factory=list)  # modules that multiply two activations with each other
    trace: str = ""  # sha256 over the operations with shapes and scalars, and over constants


class Witness(TorchDispatchMode):
    """Records the attention of one pass; ``knock_out``: every square map becomes the identity."""

    def __init__(self, *, knock_out: bool = False, stack: list[str] | None = None, known: Any = None) -> None:
        super().__init__()
        self.knock_out, self.stack, self.known = knock_out, stack if stack is not None else [], known
        self.calls: list[Seen] = []
        self.foreign: list[tuple[str, str]] = []
        self.digest = hashlib.sha256()
        self._maps: dict[int, tuple[Tensor, Tensor, Seen]] = {}  # id -> (that tensor, the softmax's result, its call)
        self.unread: list[str] = []
        self._made = WeakIdKeyDictionary()  # what the operations made, and whether it depends on the image
        self._empty: dict[int, Any] = {}  # storages that were made without values and not written since, kept alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name: str = func._schema.name
        out = func(*args, **kwargs)
        self._note(func, name, args, kwargs, out)
        if name in FUSED:
            return self._fused(args, out)
        if name in _SOFTMAX:
            return self._softmax(args, out)
        if self._maps:
            self._follow(name, args, out)
        if name in _WHOLE or name.split("::")[0] not in ("aten", "prims", "prim", "c10d", "_c10d_functional"):
            self.foreign.append((self.stack[-1] if self.stack else "", name))
        return out

    def _fused(self, args: Any, out: Any) -> Any:
        query, key, value = args[:3]
        seen = Seen(tuple(self.stack), tuple(query.shape), query.shape[-2], key.shape[-2], True, True)
        self.calls.append(seen)
        if not (self.knock_out and seen.square):
            return out
        seen.diagonal = query.detach().double().square().sum(-1)
        first = out[0] if isinstance(out, tuple) else out
        if value.shape[1:2] != first.shape[1:2] and value.dim() == 4:  # grouped queries share their values
            value = value.repeat_interleave(first.shape[1] // value.shape[1], 1)
        first = torch.empty_like(first).copy_(value.expand_as(first))
        return (first, *out[1:]) if isinstance(out, tuple) else first

    def _softmax(self, args: Any, out: Tensor) -> Tensor:
        source, dim = args[0], args[1]
        if source.dim() < 3 or dim not in (-1, source.dim() - 1):
            return out
        seen = Seen(tuple(self.stack), tuple(source.shape), source.shape[-2], source.shape[-1], False, False)
        self.calls.append(seen)
        if not seen.square:
            return out
        if self.knock_out:
            seen.diagonal = source.detach().diagonal(dim1=-2, dim2=-1).double()
            out = torch.eye(seen.keys, dtype=out.dtype, device=out.device).expand_as(out).contiguous()
        self._maps[id(out)] = (out, out, seen)
        return out

    def _follow(self, name: str, args: Any, out: Any) -> None:
        """The softmax's result through views and copies to the product that applies it, with the same values."""
        for place, value in enumerate(args):
            if not isinstance(value, Tensor) or (found := self._maps.get(id(value))) is None:
                continue
            _, result, seen = found
            if name in _PRODUCTS:
                seen.applied = seen.applied or _is_map(value, result)
            elif place == 0 and name.split("::")[-1] in _SAME:
                for tensor in out if isinstance(out, tuple) else (out,):
                    if isinstance(tensor, Tensor):
                        self._maps[id(tensor)] = (tensor, result, seen)

    def _note(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Hashes the operation, and follows what depends on the image and what is written where nobody sees it."""
        if self.known is None:
            return
        values = (*args, *kwargs.values())
        inner = [t for value in values for t in (value if isinstance(value, (list, tuple)) else (value,))]
        tensors = [t for t in inner if isinstance(t, Tensor)]
        self.digest.update(name.encode())
        for value in values:
            if not isinstance(value, (Tensor, list, tuple)) and not callable(value):
                self.digest.update(repr(value).encode())
        for tensor in tensors:
            self.digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            if tensor not in self.known and tensor not in self._made:  # a constant that is no parameter
                self._made[tensor] = False
                if tensor.numel() <= 1 << 24:
                    self.digest.update(tensor.detach().double().sum().cpu().numpy().tobytes())
        image = [tensor for tensor in tensors if self._made.get(tensor, False)]
        if name in _PRODUCTS and len(image) > 1:
            self.unread.append(self.stack[-1] if self.stack else "")
        self._written(func, name, tensors, out)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor not in self.known:
                self._made[tensor] = bool(image)

    def _written(self, func: Any, name: str, tensors: list[Tensor], out: Any) -> None:
        short = name.split("::")[-1]
        if short in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"):
            self._empty[out.untyped_storage()._cdata] = out.untyped_storage()
            return
        read = [place for tensor in tensors if (place := tensor.untyped_storage()._cdata) in self._empty]
        if not read:
            return
        writes = any(
            argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments
        )
        if not writes and short in _SAME and short not in ("clone", "_to_copy", "copy"):
            return  # a view of it
        if not writes:
            self.foreign.append((self.stack[-1] if self.stack else "", "a kernel that torch does not see"))
        for place in read:
            self._empty.pop(place, None)


def _is_map(operand: Tensor, result: Tensor) -> bool:
    """Whether a product's operand is the whole map, or its transpose, with the values of the softmax."""
    keys = result.shape[-1]
    if operand.numel() != result.numel() or tuple(operand.shape[-2:]) != (keys, keys):
        return False
    result = result.to(operand.dtype)
    return any(torch.equal(form.reshape(result.shape), result) for form in (operand, operand.transpose(-2, -1)))


def witnessed(
    module: nn.Module,
    run: Callable[[], Any],
    *,
    image: Tensor | None = None,
    knock_out: bool = False,
    keep: bool = False,
    trace: bool = False,
) -> Pass:
    """One forward pass under the witness; the module is in eval mode, no gradients are kept.

    Args:
        run: makes the pass and returns its output.
        image: what it is made on, so that a trace knows what depends on it.
        knock_out: every square attention map becomes the identity.
        keep: the modules' outputs are kept, else only the shapes of their first tensors.
        trace: the operations are hashed, which is part of an own module's identity.
    """
    stack: list[str] = []
    known: Any = None
    if trace:
        known = WeakIdKeyDictionary()
        for tensor in (*module.parameters(), *module.buffers()):
            known[tensor] = True
    witness, done = Witness(knock_out=knock_out, stack=stack, known=known), Pass()
    if image is not None:
        witness._made[image] = True

    def ended(name: str, output: Any) -> None:
        stack.pop()
        done.ended.append((name, output if keep else _shapes(output)))

    with contextlib.ExitStack() as undo:
        for name, part in module.named_modules():
            before = part.register_forward_pre_hook(lambda _m, _i, name=name: stack.append(name))  # type: ignore[misc]
            after = part.register_forward_hook(lambda _m, _i, out, name=name: ended(name, out))  # type: ignore[misc]
            undo.callback(before.remove)
            undo.callback(after.remove)
        with torch.no_grad(), witness:
            done.output = run()
    done.calls, done.foreign, done.unread = witness.calls, witness.foreign, witness.unread
    done.trace = witness.digest.hexdigest()
    return done


def _shapes(output: Any) -> Any:
    """The same structure with shapes in place of tensors."""
    if isinstance(output, Tensor):
        return output.shape
    if isinstance(output, (tuple, list)) and not isinstance(output, torch.Size):
        return [_shapes(item) for item in output]
    if isinstance(output, dict) or hasattr(output, "items"):
        return {key: _shapes(item) for key, item in output.items()}
    return None


@contextlib.contextmanager
def same_randomness(device: torch.device) -> Iterator[None]:
    """The random state as it was before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
