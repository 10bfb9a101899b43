"""Reads attention where a model computes it, without changing what it computes.

Hooks cannot do this: fused attention calls no module. So for the length of a ``with`` block the
functions that every model goes through are replaced by ones that also report:
``torch.nn.functional.scaled_dot_product_attention`` (the original still makes the output, bit for bit;
only q k^T is computed once more, for the statistics) and the softmax functions, for models that write
attention out. Calls are counted and compared with the number of blocks: a partial reading is an error.

The replacement is global while it lasts: do not run another model in a second thread meanwhile.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fdlab.errors import USAGE, FdlabError


@dataclass(frozen=True)
class AttentionCall:
    """One block's self attention, at the moment it is computed.

    ``block`` counts from 0 in the order of computation; ``shape`` is (B, heads, T, T), B times windows in
    windowed models. Logits and maps are computed when asked for, in float32 at least, and carry gradients
    where the caller's do.
    """

    block: int
    shape: tuple[int, int, int, int]
    _logits: Callable[[slice, slice], Tensor]

    def logits(self, images: slice = slice(None), queries: slice = slice(None)) -> Tensor:
        """(images, heads, queries, T): scaled and masked, as the softmax sees them."""
        return self._logits(images, queries)

    def maps(self, images: slice = slice(None), queries: slice = slice(None)) -> Tensor:
        """(images, heads, queries, T) after softmax."""
        return self._logits(images, queries).softmax(-1)


OnCall = Callable[[AttentionCall], None]
OnSkip = Callable[[str], None]


@contextlib.contextmanager
def tap(
    module: nn.Module, on_call: OnCall, *, expected: int | None = None, on_skip: OnSkip | None = None
) -> Iterator[None]:
    """Report every self attention of ONE forward pass inside the ``with`` block to ``on_call``.

    Args:
        module: an uncompiled model in eval mode.
        on_call: called after each block's attention, in order, outside of the recording.
        expected: the number of blocks; by default what the module's ``blocks`` lists hold.
        on_skip: told of every other attention (class, pooling, cross, ...): module, shape and reason.

    Raises:
        FdlabError: the model is in train mode or compiled, or another number of calls was seen.
    """
    _check(module)
    wanted = count_blocks(module) if expected is None else expected
    recorder = _Recorder(on_call, wanted, on_skip)
    early = _Early(recorder)  # made before the functions are replaced
    with _named(module, recorder), _counted(module, recorder), _patched(recorder), early:
        yield
    if recorder.seen != wanted:
        raise _miscounted(recorder.seen, wanted)


def capture_maps(
    module: nn.Module, run: Callable[[], Any], blocks: tuple[int, ...], *, expected: int | None = None
) -> dict[int, Tensor]:
    """{block: (B, heads, T, T)} of the forward pass that ``run()`` makes.

    Keys are those of ``blocks``, as given: from 0, or negative from the end. Gradients follow the caller.

    Raises:
        FdlabError: a block that the model does not have; and the errors of ``tap``.
    """
    count = count_blocks(module) if expected is None else expected
    for block in blocks:
        if not -count <= block < count:
            raise FdlabError(
                f"Block {block} is asked for, but the model has {count}.",
                fix=f"Blocks count from 0 to {count - 1}, or from -1 to {-count} from the end.",
                code=USAGE,
            )
    found: dict[int, Tensor] = {}
    places = {block % count for block in blocks}

    def keep(call: AttentionCall) -> None:
        if call.block in places:
            found[call.block] = call.maps()

    with tap(module, keep, expected=count):
        run()
    return {block: found[block % count] for block in blocks}


def count_blocks(module: nn.Module) -> int:
    """The blocks of a model: the lengths of all its lists called ``blocks`` (one, or one a stage).

    Raises:
        FdlabError: it has none.
    """
    lists = (nn.ModuleList, nn.Sequential)
    named = {name: part for name, part in module.named_modules() if isinstance(part, lists)}
    count = sum(len(part) for name, part in named.items() if name.split(".")[-1] == "blocks")
    if count:
        return count
    raise FdlabError(
        f"The number of attention blocks of this {type(module).__name__} is not known.",
        "It has no list called 'blocks', so a partial reading could not be noticed.",
        "Pass expected=, the number of self attentions in one forward pass.",
    )


# --- recording ---------------------------------------------------------------------------------------


class _Recorder:
    """Counts self attentions and hands them on; silent while a call is being handled."""

    def __init__(self, on_call: OnCall, expected: int, on_skip: OnSkip | None = None) -> None:
        self.on_call, self.expected, self.on_skip = on_call, expected, on_skip
        self.names: list[str] = []  # the modules whose forward pass is running, the innermost last
        self.seen = 0
        self.busy = False
        self.images = 0  # of the running pass: where images and heads share an axis, this tells them apart
        self.heads = 0  # of the nn.MultiheadAttention that is running: asked for its weights, it joins images and heads

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    def report(self, shape: tuple[int, int, int, int], logits: Callable[[slice, slice], Tensor]) -> None:
        if self.seen == self.expected:
            raise _miscounted(self.seen + 1, self.expected)
        with self.quiet():
            self.on_call(AttentionCall(self.seen, shape, logits))
        self.seen += 1

    def skip(self, queries: int, keys: int) -> None:
        """Attention that is no block's self map."""
        if self.on_skip is not None and not self.busy:
            kind = "class attention or pooling" if queries == 1 else "cross, pooled or channel attention"
            name = self.names[-1] if self.names else "outside of the model"
            self.on_skip(f"{name}: {kind} ({queries} queries, {keys} keys), not a map between all tokens")


def _sdpa(recorder: _Recorder, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        if recorder.busy:
            return original(query, key, value, attn_mask, dropout_p, is_causal, **options)
        with recorder.quiet():
            out = original(query, key, value, attn_mask, dropout_p, is_causal, **options)
        if query.dim() == 3 and recorder.images and query.shape[0] % recorder.images == 0:  # images and heads joined
            query, key = (tensor.unflatten(0, (recorder.images, -1)) for tensor in (query, key))
            if attn_mask is not None and attn_mask.dim() == 3 and attn_mask.shape[0] > 1:
                attn_mask = attn_mask.unflatten(0, (recorder.images, -1))
        # fewer queries than keys: pooling, class or cross attention, which is no block's self map
        if query.dim() != 4 or query.shape[-2] != key.shape[-2] or query.shape[-2] == 1:
            recorder.skip(query.shape[-2], key.shape[-2])
            return out
        scale = options.get("scale")
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        batch, heads, tokens = query.shape[:3]
        kept: dict[tuple[int | None, int | None], Tensor] = {}

        def keys(images: slice) -> Tensor:
            """The keys of these images, laid out for a product once and not again for every slice of queries."""
            place = (images.start, images.stop)
            if place not in kept:
                kept.clear()
                k = _float(key[images])
                if k.shape[1] != heads:  # grouped queries share their keys
                    k = k.repeat_interleave(heads // k.shape[1], 1)
                kept[place] = k.contiguous()
            return kept[place]

        def logits(images: slice, queries: slice) -> Tensor:
            q, k = _float(query[images, :, queries]), keys(images)
            result = (q * scale) @ k.transpose(-2, -1)
            if attn_mask is not None:
                result = _masked(result, attn_mask.expand(batch, heads, tokens, tokens)[images, :, queries])
            if is_causal:
                below = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
                result = _masked(result, below[queries])
            return result

        recorder.report((batch, heads, tokens, tokens), logits)
        return out

    return scaled_dot_product_attention


def _softmax(recorder: _Recorder, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def softmax(*args: Any, **kwargs: Any) -> Tensor:
        if recorder.busy:
            return original(*args, **kwargs)
        with recorder.quiet():  # F.softmax calls Tensor.softmax: one computation, one report
            out = original(*args, **kwargs)
        source = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if recorder.heads and source.dim() == 3 and dim in (-1, 2):
            source, dim = source.unflatten(0, (-1, recorder.heads)), -1
        elif source.dim() == 3 and dim in (-1, 2) and recorder.images and source.shape[0] % recorder.images == 0:
            if source.shape[-2] == source.shape[-1] > 1:
                source, dim = source.unflatten(0, (recorder.images, -1)), -1
        elif source.dim() == 5 and dim in (-1, 4):  # images and windows apart
            source, dim = source.flatten(0, 1), -1
        if source.dim() == 4 and dim in (-1, 3) and source.shape[-2] == source.shape[-1] > 1:
            recorder.report(tuple(source.shape), lambda images, queries: _float(source[images, :, queries]))
        elif source.dim() >= 3:
            recorder.skip(source.shape[-2], source.shape[-1])
        return out

    return softmax


def _multi_head(recorder: _Recorder, original: Callable[..., Any]) -> Callable[..., Any]:
    """``nn.MultiheadAttention``'s function: tells the softmax in it how many heads there are."""

    def multi_head_attention_forward(
        query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, *args: Any, **kwargs: Any
    ) -> Any:
        before, recorder.heads = recorder.heads, num_heads
        try:
            return original(query, key, value, embed_dim_to_check, num_heads, *args, **kwargs)
        finally:
            recorder.heads = before

    return multi_head_attention_forward


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask


def _float(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


# --- putting in place and taking away ------------------------------------------------------------------


@contextlib.contextmanager
def _named(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Hooks that keep the stack of running modules' names; only where skipped calls are wanted."""
    names = recorder.names
    with contextlib.ExitStack() as undo:
        for name, part in module.named_modules() if recorder.on_skip is not None else ():
            label = name or type(module).__name__
            before = part.register_forward_pre_hook(lambda _m, _i, label=label: names.append(label))  # type: ignore[misc]
            after = part.register_forward_hook(lambda _m, _i, _o: names.pop() and None)
            undo.callback(before.remove)
            undo.callback(after.remove)
        yield


@contextlib.contextmanager
def _counted(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder how many images the running pass has."""

    def count(_module: nn.Module, inputs: Any) -> None:
        first = next((value for value in inputs if isinstance(value, Tensor) and value.dim() == 4), None)
        if first is not None:
            recorder.images = len(first)

    handle = module.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


class _Early(TorchFunctionMode):
    """Sees the fused function where an author's file had imported it by name, before it was replaced."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.original = F.scaled_dot_product_attention
        self.reported = _sdpa(recorder, self.original)
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.original and not self.recorder.busy:
            func = self.reported
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _patched(recorder: _Recorder) -> Iterator[None]:
    with contextlib.ExitStack() as undo:
        undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # a native kernel that no Python function sees
        _replace(undo, F, "scaled_dot_product_attention", _sdpa(recorder, F.scaled_dot_product_attention))
        _replace(undo, F, "multi_head_attention_forward", _multi_head(recorder, F.multi_head_attention_forward))
        for owner in (torch, torch.Tensor, F):
            _replace(undo, owner, "softmax", _softmax(recorder, owner.softmax))  # type: ignore[attr-defined]
        yield


def _replace(undo: contextlib.ExitStack, owner: Any, name: str, new: Callable[..., Tensor]) -> None:
    """Set an attribute now, and as it was at the end (an inherited one is uncovered again)."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, vars(owner)[name])
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, new)


def _check(module: nn.Module) -> None:
    if any(part.training for part in module.modules()):
        raise FdlabError(
            "Attention is read in eval mode only.", "This model is (partly) in train mode.", "Call module.eval()."
        )
    for part in module.modules():
        compiled = hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        if compiled or isinstance(part, torch.jit.ScriptModule):
            raise FdlabError(
                f"The attention of a compiled model cannot be read ({type(part).__name__}).",
                "torch.compile and TorchScript go past the functions that are read here.",
                "Pass the model as it was before compiling.",
            )


def _miscounted(seen: int, expected: int) -> FdlabError:
    return FdlabError(
        f"Attention was seen {seen} of {expected} times.",
        "The model computes (part of) its attention in another form (pooled keys, channel attention, its own"
        " code), or more than one forward pass was made.",
        "A partial reading is not used. Where the number of self attentions is known, pass expected=.",
    )
