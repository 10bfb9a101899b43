"""The anatomy of a module: what one traced pass shows, what the knock-out proves, what is refused and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fdlab.encoders import inference
from fdlab.encoders.anatomy import COMPLETE, Anatomy, Layout, Order
from fdlab.encoders.encoder import activation_name
from fdlab.encoders.knockout import KnockOut, Verdict, remixed
from fdlab.encoders.local import Local
from fdlab.encoders.projections import find_projections
from fdlab.encoders.subject import Subject, sides
from fdlab.encoders.witness import Pass, witnessed
from fdlab.errors import NOT_UNDERSTOOD, FdlabError


class Dissection(Subject):
    """A subject whose parts are found."""

    # --- parts ----------------------------------------------------------------------------------------------

    def anatomy(self) -> tuple[Anatomy, dict[str, Any], str]:
        """The anatomy, the fields of the description that follow from it, and the pass's trace."""
        module, noise = self.module, self.noise(2)
        done = witnessed(module, lambda: self.run(noise), image=noise, trace=True)
        calls = [call for call in done.calls if call.square]
        if self.blocks is not None:
            blocks = inference.named_blocks(module, self.blocks)
        else:
            blocks = inference.attention_blocks(module, done) if calls else inference.plain_blocks(module, done)
        blocks = [block for block in dict.fromkeys(blocks) if block]
        where, order, shape = self._tokens(done, blocks, bool(calls))
        norm = self._norm(where, done)
        if where == "forward_features" and isinstance(getattr(module, "norm", None), nn.Module):
            norm = "norm"
        anatomy = Anatomy(tuple(blocks), where, order, norm, self.forward, live=self.live)
        prefix, kinds, grid, last, verdict = self._places(anatomy, shape, bool(calls))
        attention, layouts, heads = self._judged(done, blocks, verdict, grid, prefix)
        anatomy = replace(
            anatomy,
            calls=len(layouts) if layouts else 0,
            layouts=layouts,
            heads=heads,
            prefix=prefix,
            order_of_parts=inference.order_of_parts(module, done, blocks),
            prefix_last=prefix if last else 0,
            projections=find_projections(module, lambda: self.run(noise), blocks, heads),
            attention=attention,
            said=tuple(self.said),
        )
        norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm)]
        acts = [
            name
            for part in module.modules()
            if (name := activation_name(part)) in ("gelu", "gelu_tanh", "relu", "silu")
        ]
        side = inference.side_of(self.size[0], grid[0])
        fields = {
            "depth": len(blocks), "width": shape[-1], "heads": heads[-1] if heads else 0, "patch_size": side,
            "grid": grid, "prefix_tokens": prefix, "prefix_kinds": kinds,
            "norm_eps": float(norms[0].eps) if norms else 0.0, "activation": acts[0] if acts else "",
            "classes": self._classes(done, blocks),
            "windows": tuple(p.grid for p in layouts) if layouts and any(p.windows > 1 for p in layouts) else (),
        }  # fmt: skip
        return anatomy, fields, done.trace

    def _tokens(
        self, done: Pass, blocks: list[str], attends: bool
    ) -> tuple[str | Callable[[nn.Module, Tensor], Tensor], Order, tuple[int, int, int]]:
        """Where the final tokens come from, the order of their axes, and their shape (2, N, C)."""
        where: Any = self.tokens
        if isinstance(where, str):
            where = where.replace("output.", "output#", 1) if where.startswith("output.") else where
            self.said.append(f"tokens: {where.replace('#', '.')}, given")
        if where is None and self.forward is None and self._forward_features():
            where = "forward_features"
            self.said.append("tokens: forward_features")
        if where is None:
            root = next((output for name, output in reversed(done.ended) if not name), None)
            found = inference.tokens_place(done, blocks, attends, root)
            if found is None:
                raise self._no_tokens(done)
            where = found[0]
            self.said.append(f"tokens: {where.replace('#', '.')}, the last output of their form")
        found_tokens = self._raw(where)
        shape: tuple[int, ...] = tuple(found_tokens.shape)
        width = self._width(blocks, done)
        order = inference.order_of(shape, self.size, width, 2) if len(shape) in (3, 4) else None
        if order is None:
            raise self._no_tokens(done)
        if where == "forward_features" and len(shape) == 4 and hasattr(self.module, "output_fmt"):
            order = "BHWC" if str(self.module.output_fmt).endswith("NHWC") else "BCHW"
        self.map = None
        if len(shape) == 4:
            self.map = (shape[1], shape[2]) if order == "BHWC" else (shape[2], shape[3])
        ordered = Anatomy((), order=order).in_order(found_tokens, self.module)
        return where, order, tuple(ordered.shape)  # type: ignore[return-value]

    def _raw(self, where: Any) -> Tensor:
        """The tensor at this place, axes as the module has them."""
        found = Anatomy((), where, "BNC", "", self.forward)
        seen: list[Tensor] = []

        class Raw(Anatomy):
            def in_order(self, tokens: Tensor, module: nn.Module) -> Tensor:
                seen.append(tokens)
                return tokens

        try:
            Raw((), found.tokens, None, "", self.forward).read_tokens(self.module, self.noise(2))
        except (AttributeError, KeyError, IndexError) as error:
            names = [name for name, _ in self.module.named_modules() if name]
            raise FdlabError(
                f"{self.title} has no tokens at '{where}'.",
                str(error)[:160],
                f"Give tokens= as one of its modules: {', '.join(names[-6:])}.",
                code=NOT_UNDERSTOOD,
            ) from error
        if not isinstance(seen[-1], Tensor) or seen[-1].ndim not in (3, 4):
            raise FdlabError(
                f"What stands at '{where}' of {self.title} is no map of tokens.",
                f"It is {tuple(seen[-1].shape) if isinstance(seen[-1], Tensor) else type(seen[-1]).__name__}.",
                "Give tokens= as a module whose output is (B, N, C) or (B, C, H, W).",
                code=NOT_UNDERSTOOD,
            )
        return seen[-1]

    def _forward_features(self) -> bool:
        reader = getattr(self.module, "forward_features", None)
        if not callable(reader):
            return False
        try:
            found = reader(self.noise(1))
        except Exception:  # another author's method of that name
            return False
        return isinstance(found, Tensor) and found.ndim in (3, 4)

    def _width(self, blocks: list[str], done: Pass) -> int | None:
        """Channels that a norm in the last block or the last convolution states."""
        parts = list(self.module.get_submodule(blocks[-1]).modules()) if blocks else []
        norms = [p for p in parts if isinstance(p, nn.LayerNorm)]
        if norms:
            return int(norms[0].normalized_shape[-1])
        convolutions = [p for p in parts if isinstance(p, nn.Conv2d)]
        return convolutions[-1].out_channels if convolutions else None

    def _norm(self, where: Any, done: Pass) -> str:
        """The norm that the final tokens come out of: that module, or the last part of it that ran."""
        if not isinstance(where, str) or "#" in where or where in ("output", "forward_features"):
            return ""
        if _is_norm(self.module, where):
            return where
        order = [name for name, _ in done.ended]
        last = order[order.index(where) - 1] if where in order[1:] else ""
        return last if last.startswith(f"{where}.") and _is_norm(self.module, last) else ""

    def _no_tokens(self, done: Pass) -> FdlabError:
        last = [(n, s) for n, o in done.ended[-12:] if (s := inference.first_shape(o)) and len(s) > 2]
        shown = ", ".join(f"{name} {shape}" for name, shape in last[-3:])
        return FdlabError(
            f"The tokens of {self.title} are not known.",
            f"Outputs at its end: {shown or 'none with a token axis'}.",
            "Give tokens= as a module's name, 'output.KEY', or (module, images) -> tokens.",
            code=NOT_UNDERSTOOD,
        )

    # --- prefix, grid, proof ----------------------------------------------------------------------------------

    def _places(
        self, anatomy: Anatomy, shape: tuple[int, int, int], attends: bool
    ) -> tuple[int, tuple[str, ...], tuple[int, int], bool, Verdict]:
        """Prefix, its kinds, the grid, whether the prefix stands last, and the proof's verdict."""
        given = self.prefix if self.prefix is None or isinstance(self.prefix, int) else len(self.prefix)
        hint = self.grid or self.map or self._embedded_grid()
        if not attends:
            placed = inference.grid_for(shape[1], self.size, given, hint)
            prefix, grid = placed if placed else self._no_grid(shape[1])
            return prefix, self._kinds(prefix), grid, False, Verdict()
        knock = KnockOut(self.module, lambda images: anatomy.read_tokens(self.module, images), self.noise(1))
        still, last = knock.prefix()
        placed = inference.grid_for(shape[1], self.size, still if given is None and still else given, hint)
        placed = placed or inference.grid_for(shape[1], self.size, given, hint)
        prefix, grid = placed if placed else self._no_grid(shape[1])
        last = last and prefix == still
        self.said.append(
            f"{prefix} prefix tokens{' (behind the patches)' if last else ''}, {grid[0]} x {grid[1]} patches"
        )
        if not self.check:
            self.assumed.append("unchecked: check=False")
            return prefix, self._kinds(prefix), grid, last, Verdict()
        verdict = knock.judge(grid, prefix, last)
        if verdict.disorder:
            raise FdlabError(
                "Patches are not in row order.", verdict.disorder, "Give tokens= that sorts them.", code=NOT_UNDERSTOOD
            )
        if not verdict.why:
            self.said.append("attention proved complete: with every map taken out, one patch moves one token alone")
        return prefix, self._kinds(prefix), grid, last, verdict

    def _embedded_grid(self) -> tuple[int, int] | None:
        patch, _ = inference.patch_embedding(self.module, self.channels)
        return (self.size[0] // patch[0], self.size[1] // patch[1]) if patch else None

    def _no_grid(self, count: int) -> Any:
        raise FdlabError(
            f"{count} tokens do not fill a grid.",
            f"Image {sides(self.size)}, prefix 0 to 8.",
            "Give grid= and prefix=.",
            code=NOT_UNDERSTOOD,
        )

    def _kinds(self, prefix: int) -> tuple[str, ...]:
        if self.prefix is not None and not isinstance(self.prefix, int):
            return tuple(self.prefix)
        return inference.prefix_kinds(self.module, prefix)

    def _judged(
        self, done: Pass, blocks: list[str], verdict: Verdict, grid: tuple[int, int], prefix: int
    ) -> tuple[str, tuple[Layout, ...] | None, tuple[int, ...]]:
        """What is said of the attention, with the layout and heads of every call where it is complete."""
        calls = [call for call in done.calls if call.square]
        if not calls:
            return _without(done), None, ()
        why = remixed(calls) or ("" if verdict.leak else verdict.why)
        if not why and len(calls) != len(blocks):
            why = f"{len(calls)} attentions in {len(blocks)} blocks: a block runs more than once"
        if why:
            return f"refused: {why}", None, ()
        cell = (self.size[0] // grid[0], self.size[1] // grid[1])
        both = [_batched(call.shape, 2) for call in calls]
        heads = tuple(many for _, many in both)
        whole = (grid[0] * grid[1], grid[0] * grid[1] + prefix)
        if not verdict.leak and all(
            images == 2 and call.keys in whole for call, (images, _) in zip(calls, both, strict=True)
        ):
            return COMPLETE, (Layout(grid, cell),) * len(calls), heads
        local = Local(self.module, self.run, self.noise(1), prefix)
        if verdict.leak and (why := local.stray()):
            return f"refused: {why}", None, ()
        layouts: list[Layout] = []
        for call in local.calls:
            why, layout = local.place(call, self.size)
            if layout is None:
                return f"refused: {verdict.why if verdict.leak and not _overlaps(self.module) else why}", None, ()
            layouts.append(layout)
        if verdict.leak:
            self.assumed.append(
                "attention proved complete block by block; convolutions or pooling mix tokens between them"
            )
        else:
            self.said.append("windows: found by redrawing positions of each block's input")
        return COMPLETE, tuple(layouts), heads

    def _classes(self, done: Pass, blocks: list[str]) -> int:
        """Outputs of the classifier: the last linear layer's, where the module's own output has as many."""
        output = done.output
        shape = tuple(getattr(getattr(output, "logits", output), "shape", ()))
        order = [name for name, _ in done.ended]
        end = max((place for place, name in enumerate(order) if name in blocks), default=-1)
        linear = [name for name in order[end + 1 :] if isinstance(self.module.get_submodule(name), nn.Linear)]
        if len(shape) != 2 or not linear:
            return 0
        layer = self.module.get_submodule(linear[-1])
        return shape[1] if layer.out_features == shape[1] else 0


def _overlaps(module: nn.Module) -> bool:
    """Whether convolutions or pooling mix neighbours."""
    kinds = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    return any(
        isinstance(part, kinds) or (isinstance(part, nn.Conv2d) and tuple(part.kernel_size) > tuple(part.stride))
        for part in module.modules()
    )


def _without(done: Pass) -> str:
    """What is said of a network in which no self map was seen."""
    pooled = next((call for call in done.calls if call.queries > 1), None)
    if pooled is not None:
        return f"refused: {pooled.owner}: keys are pooled ({pooled.queries} queries, {pooled.keys} keys)"
    if done.foreign:
        return f"refused: {done.foreign[0][0]} may mix tokens without a map that fdlab sees: op {done.foreign[0][1]}"
    if done.unread:
        return (
            f"refused: {done.unread[0]} multiplies activations with each other and makes no map by a softmax over keys"
        )
    return "none: no attention in it"


def _batched(shape: tuple[int, ...], images: int) -> tuple[int, int]:
    """(images or windows, heads) of queries or logits as they came."""
    if len(shape) == 3:
        return images, max(shape[0] // images, 1)
    if len(shape) == 5:
        return shape[0] * shape[1], shape[2]
    if shape[0] == 1 and shape[1] % images == 0:  # three axes given to the fused function
        return images, shape[1] // images
    return shape[0], shape[1]


def _is_norm(module: nn.Module, name: str) -> bool:
    kind = type(module.get_submodule(name)).__name__.lower()
    return "norm" in kind and len(list(module.get_submodule(name).children())) == 0
