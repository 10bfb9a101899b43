"""Where a network's parts are: its blocks, its final tokens, its attention. Every reader asks ``Anatomy``, not names.

An anatomy holds names alone, so that it is also true of a copy. Networks of timm have theirs by timm's names; of any
other module it is inferred once (``wrap.py``) and kept beside the module.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fdlab.errors import NOT_UNDERSTOOD, FdlabError

Order = Literal["BNC", "NBC", "BHWC", "BCHW"]
Run = Callable[[nn.Module, Tensor], Any]
COMPLETE = "complete"


class Layout(NamedTuple):
    """One block's patch tokens: grid of one window (or of the image), pixels of a token, windows an image."""

    grid: tuple[int, int]
    patch: tuple[int, int]
    windows: int = 1

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Anatomy:
    """The parts of one module, by dotted name.

    Args:
        blocks: in the order of computation.
        tokens: where the final tokens come from: ``forward_features``, a module's output (NAME or NAME#KEY), the
            module's own output (``output`` or ``output#KEY``), or (module, images) -> tokens.
        order: axes of that tensor.
        norm: the module whose input is the tokens before the final norm; empty where there is none.
        run: (module, images) -> anything: one forward pass; None: the module is called.
        calls: self attentions of one forward pass; None: of timm's networks, one a block.
        layouts: where the tokens of each of them lie; None: of timm's networks, by their own attributes.
        heads: of each of them; None: by the description.
        prefix: tokens before the patches; None: timm's ``num_prefix_tokens``.
        order_of_parts: (module outside of the blocks, blocks that were done when it ran), for modules with parameters;
            None: by timm's names.
        prefix_last: tokens that stand behind the patches and are moved before them.
        projections: the linear layer behind the heads of each block; None: ``attn.proj`` of each; empty: not known.
        attention: ``complete``, ``none: WHY`` or ``refused: WHY``.
        live: the module is the caller's own: every reading leaves its modes as they were.
        said: what was inferred and from what, a sentence each.
    """

    blocks: tuple[str, ...]
    tokens: str | Callable[[nn.Module, Tensor], Tensor] = "forward_features"
    order: Order | None = None
    norm: str = "norm"
    run: Run | None = None
    calls: int | None = None
    layouts: tuple[Layout, ...] | None = None
    heads: tuple[int, ...] | None = None
    prefix: int | None = None
    order_of_parts: tuple[tuple[str, int], ...] | None = None
    prefix_last: int = 0
    projections: tuple[str, ...] | None = None
    attention: str = COMPLETE
    live: bool = False
    said: tuple[str, ...] = ()

    def parts(self, module: nn.Module) -> list[nn.Module]:
        """The blocks themselves."""
        return [module.get_submodule(name) for name in self.blocks]

    def blocks_done(self, parameter: str) -> int:
        """How many blocks are done when this parameter is used: 0 for the stem, i + 1 inside block i.

        What belongs to no module that runs (class tokens, position tables) belongs to the stem. Only of an anatomy that
        was inferred (``order_of_parts``).
        """
        for number, block in enumerate(self.blocks):
            if parameter.startswith(f"{block}."):
                return number + 1
        places = [(name, done) for name, done in self.order_of_parts or () if parameter.startswith(f"{name}.")]
        return max(places, key=lambda place: len(place[0]))[1] if places else 0

    def forward(self, module: nn.Module, images: Tensor) -> Any:
        """One forward pass on normalised images."""
        if self.run is not None:
            return self.run(module, images)
        return module.forward_features(images) if self.tokens == "forward_features" else module(images)  # type: ignore[operator]

    def read_logits(self, module: nn.Module, images: Tensor) -> Tensor:
        """(B, classes) of a module that holds a classifier."""
        output = module(images) if self.run is None else self.run(module, images)
        return output.logits if hasattr(output, "logits") else picked(output)

    def read_tokens(self, module: nn.Module, images: Tensor, norm: bool = True) -> Tensor:
        """(B, N, C) final tokens, prefix first, with the caller's gradients; ``norm=False``: before the final norm.

        Raises:
            FdlabError: code 3, there is no final norm.
        """
        if not norm and not isinstance(part_of(module, self.norm), nn.Module):
            raise FdlabError(
                "Tokens before the final norm are not available.",
                f"{type(module).__name__} has no final norm.",
                "Use norm=True.",
                code=NOT_UNDERSTOOD,
            )
        if not norm:
            with _watched(module.get_submodule(self.norm), before=True) as seen:
                self.forward(module, images)
            found = seen[-1]
        elif callable(self.tokens):
            found = self.tokens(module, images)
        else:
            where, _, key = self.tokens.partition("#")
            if where in ("forward_features", "output"):
                found = picked(self.forward(module, images), key)
            else:
                with _watched(module.get_submodule(where)) as seen:
                    self.forward(module, images)
                found = picked(seen[-1], key)
        return self.in_order(found, module)

    def block_tokens(self, output: Tensor, module: nn.Module) -> tuple[Tensor, tuple[int, int] | None]:
        """(B, N, C) tokens of a block's output, prefix first, and their grid where the output is a map."""
        if output.ndim == 3:
            return Anatomy(
                (), order=self.order if self.order == "NBC" else None, prefix_last=self.prefix_last
            ).in_order(output, module), None
        order = _map_order(module, self.order)
        rows, columns = output.shape[1:3] if order == "BHWC" else output.shape[2:4]
        return Anatomy((), order=order).in_order(output, module), (int(rows), int(columns))

    def in_order(self, tokens: Tensor, module: nn.Module) -> Tensor:
        """(B, N, C) of the tensor that the module computes, prefix first."""
        if tokens.ndim == 4 and (self.order is None or len(self.order) == 3):
            return as_tokens(tokens, module)
        if tokens.ndim == 4:
            return tokens.flatten(1, 2) if self.order == "BHWC" else tokens.flatten(2).transpose(1, 2)
        tokens = tokens.transpose(0, 1) if self.order == "NBC" else tokens
        return tokens.roll(self.prefix_last, 1) if self.prefix_last else tokens


def _map_order(module: nn.Module, order: Order | None) -> Order:
    """The axes of a map (B, ., ., .): of the anatomy, else by timm's ``output_fmt``."""
    if order in ("BHWC", "BCHW"):
        return order
    return "BHWC" if str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC") else "BCHW"


def as_tokens(features: Tensor, module: nn.Module) -> Tensor:
    """(B, N, C) from (B, N, C), or from a map in the module's own order of axes."""
    if features.ndim == 3:
        return features
    if str(getattr(module, "output_fmt", "NCHW")).endswith("NHWC"):
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def picked(output: Any, key: str = "") -> Any:
    """The tensor of an output: that of a key or field, else the first one in it."""
    if key:
        return output[key] if isinstance(output, Mapping) else getattr(output, key)
    while not isinstance(output, Tensor) and isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output


@contextlib.contextmanager
def _watched(part: nn.Module, before: bool = False) -> Iterator[list[Any]]:
    """What goes into or comes out of one module, in the order of its calls."""
    seen: list[Any] = []
    if before:
        handle = part.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    else:
        handle = part.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def part_of(module: nn.Module, name: str) -> Any:
    """The part of this dotted name, or None."""
    try:
        return module.get_submodule(name) if name else None
    except AttributeError:
        return None


# --- which module has which ----------------------------------------------------------------------------

_OWN: WeakKeyDictionary[nn.Module, Anatomy] = WeakKeyDictionary()


_KEPT = "_fdlab_anatomy"  # beside the parameters of a module that is ours, so that a copy of it has it too


def anatomy_of(module: nn.Module) -> Anatomy:
    """The anatomy that was inferred for this module, else the one that timm's names give."""
    return _OWN.get(module) or vars(module).get(_KEPT) or Anatomy(_timm_blocks(module))


def remember(module: nn.Module, anatomy: Anatomy) -> None:
    """From now on this module has this anatomy, and copies of it too; a module of the caller's own is not touched."""
    _OWN[module] = anatomy
    if anatomy.order_of_parts is not None and not anatomy.live:
        vars(module)[_KEPT] = anatomy


def _timm_blocks(module: nn.Module) -> tuple[str, ...]:
    """``blocks.0``, ...; of hierarchical models those of all stages."""
    if hasattr(module, "blocks"):
        return tuple(f"blocks.{name}" for name, _ in module.blocks.named_children())  # type: ignore[union-attr]
    stages = next((name for name in ("layers", "stages") if hasattr(module, name)), None)
    if stages is None:
        return ()
    return tuple(
        f"{stages}.{stage}.blocks.{name}"
        for stage, part in getattr(module, stages).named_children()
        if hasattr(part, "blocks")
        for name, _ in part.blocks.named_children()
    )


# --- reading without a trace -----------------------------------------------------------------------------


@contextlib.contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Eval mode for a while: each part's mode, compiled call and the fused path of attention come back."""
    modes = [(part, part.training) for part in module.modules()]
    compiled = [(part, part._compiled_call_impl) for part, _ in modes if part._compiled_call_impl is not None]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        for part, training in modes:
            if training:
                part.training = False
        for part, _ in compiled:
            part._compiled_call_impl = None
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, call in compiled:
            part._compiled_call_impl = call
        for part, training in modes:
            if part.training != training:
                part.training = training
