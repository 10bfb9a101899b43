"""The knock-out inside one block: for networks whose convolutions mix neighbours, and for windows.

The part around an attention is run again on its own input, with every map taken out and some positions of that input
redrawn: only those may change in its output. Redrawn by the bits of their rows and columns, they also show which
positions each token of a map stands for, whatever windows, shifts or grids the author cut.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import Layout, picked
from fdlab.encoders.inference import grid_for
from fdlab.encoders.knockout import axes
from fdlab.encoders.witness import Pass, Seen, witnessed

Pair = tuple[int, int]
NOWHERE = "lies in no part that keeps the shape of its input"


@dataclass
class Kept:
    """What went into a module and came out of it."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None


@contextlib.contextmanager
def _kept(module: nn.Module) -> Iterator[dict[str, Kept]]:
    found: dict[str, Kept] = {}
    with contextlib.ExitStack() as undo:
        for name, part in module.named_modules():

            def before(_m: Any, args: Any, kwargs: Any, name: str = name) -> None:
                found[name] = Kept(args, kwargs)

            def after(_m: Any, _a: Any, output: Any, name: str = name) -> None:
                found[name].output = output

            undo.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
            undo.callback(part.register_forward_hook(after).remove)
        yield found


class Local:
    """The blocks' own proofs, from one pass on one image.

    Args:
        run: (image) -> output of one forward pass.
        image: (1, C, H, W) noise.
        prefix: prefix tokens of the final tokens: a block's input has them or none.
    """

    def __init__(self, module: nn.Module, run: Callable[[Tensor], Any], image: Tensor, prefix: int) -> None:
        self.module, self.run, self.image, self.prefix = module, run, image, prefix
        self.other: dict[str, Kept] | None = None
        with _kept(module) as self.kept:
            self.done: Pass = witnessed(module, lambda: run(image), knock_out=True, image=image, trace=True)
        self.calls = [call for call in self.done.calls if call.square]
        self.around = Counter(name for call in self.calls for name in set(call.stack))

    def stray(self) -> str:
        """Names what may be attention and makes no map: foreign operations, pooled keys, unread products."""
        pooled = next((call for call in self.done.calls if not call.square and call.queries > 1), None)
        if pooled is not None:
            return f"{pooled.owner}: keys are pooled ({pooled.queries} queries, {pooled.keys} keys)"
        if self.done.foreign:
            owner, name = self.done.foreign[0]
            return f"{owner} mixes tokens without a map that fdlab sees: op {name}"
        wanted = Counter(call.around for call in self.done.calls if not call.fused for _ in range(2))
        for owner, count in Counter(self.done.unread).items():
            if count > sum(number for around, number in wanted.items() if _near(around, owner)):
                return f"{owner} multiplies activations with each other and makes no map by a softmax over keys"
        return ""

    def place(self, call: Seen, size: Pair, scan: bool = True) -> tuple[str, Layout | None]:
        """(why not, where the call's tokens lie): the part around it that keeps its input's shape decides.

        Without ``scan`` the second is asked for nothing and None.
        """
        told = f"{call.owner} {NOWHERE}"
        for name in call.stack:  # the largest part around it alone first
            kept = self.kept.get(name)
            if not name or kept is None or self.around[name] != 1:
                continue
            source, output = _first(kept), picked(kept.output)
            if source is None or not isinstance(output, Tensor) or source.shape != output.shape:
                continue
            for form in _forms(source):
                replay = Replay(self.module.get_submodule(name), kept, form, size, self.prefix)
                if replay.grid is None or not replay.lies_as(_first(self._corner()[name])):
                    continue
                why, layout = replay.judged(scan)
                if not why:
                    return "", layout
                told = f"{call.owner}: {why}"
        return told, None

    def _corner(self) -> dict[str, Kept]:
        """The same pass with the upper right quarter of the image redrawn."""
        if self.other is None:
            image = self.image.clone()
            part = image[..., : image.shape[-2] // 2, image.shape[-1] // 2 :]
            part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(5)).to(part))
            with _kept(self.module) as self.other:
                witnessed(self.module, lambda: self.run(image), knock_out=True)
        return self.other


def _near(one: str, other: str) -> bool:
    """Whether two modules are one inside the other, or children of one."""
    beside = one.rpartition(".")[0] == other.rpartition(".")[0]
    return beside or one == other or not one or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _first(kept: Kept) -> Tensor | None:
    return next((value for value in (*kept.args, *kept.kwargs.values()) if isinstance(value, Tensor)), None)


def _forms(source: Tensor) -> list[tuple[int, ...]]:
    """The axes of the positions, as far as they can be meant; the remaining ones are the image and the channels."""
    if source.ndim == 3:
        return [(axis,) for axis in (1, 0) if source.shape[1 - axis] == 1]
    return [(1, 2), (2, 3)] if source.ndim == 4 and source.shape[0] == 1 else []


class Replay:
    """One part, run again on its own input with some positions redrawn."""

    def __init__(self, part: nn.Module, kept: Kept, form: tuple[int, ...], size: Pair, prefix: int) -> None:
        self.part, self.kept, self.form, self.size = part, kept, form, size
        source = _first(kept)
        assert source is not None
        self.source = source
        self.first = 0
        self.grid: Pair | None = None
        if len(form) == 2:
            rows, columns = source.shape[form[0]], source.shape[form[1]]
            self.grid = (rows, columns) if rows * size[1] == columns * size[0] else None
        else:
            count = source.shape[form[0]]
            for tokens in (prefix, 0):
                if (found := grid_for(count, size, tokens, None)) is not None:
                    self.first, self.grid = found
                    break
        if self.grid is not None:
            self.base = self._run(source)

    def lies_as(self, other: Tensor | None) -> bool:
        """Whether the positions are the image's: what its upper right quarter moves lies in theirs."""
        if self.grid is None or other is None or other.shape != self.source.shape:
            return False
        rest = tuple(axis for axis in range(other.ndim) if axis not in self.form)
        moved = (other.double() - self.source.double()).square().sum(rest)
        moved = moved.flatten()[self.first : self.first + self.grid[0] * self.grid[1]].view(self.grid)
        inside = moved[: (self.grid[0] + 1) // 2, self.grid[1] // 2 :].sum()
        return bool(inside > 0.6 * moved.sum())

    def _run(self, source: Tensor) -> Pass:
        args = tuple(source if value is self.source else value for value in self.kept.args)
        kwargs = {key: source if value is self.source else value for key, value in self.kept.kwargs.items()}
        return witnessed(self.part, lambda: picked(self.part(*args, **kwargs)), knock_out=True)

    def _redrawn(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The input with the positions of a (rows, columns) mask redrawn, and the mask over the positions' axes."""
        if len(self.form) == 1:
            count = self.source.shape[self.form[0]]
            flat = torch.zeros(count, dtype=torch.bool)
            flat[self.first : self.first + mask.numel()] = mask.flatten()
            mask = flat
        shape = [1] * self.source.ndim
        for axis, side in zip(self.form, mask.shape, strict=True):
            shape[axis] = side
        spread = mask.reshape(shape).to(self.source.device)
        noise = torch.randn(self.source.shape, generator=torch.Generator().manual_seed(11)).to(self.source)
        return torch.where(spread, noise, self.source), spread

    def judged(self, scan: bool = True) -> tuple[str, Layout | None]:
        """Whether one position moves itself alone, and where the tokens of the map lie."""
        assert self.grid is not None
        rows, columns = self.grid
        mask = torch.zeros(rows, columns, dtype=torch.bool)
        mask[rows // 2, columns // 2] = True
        source, spread = self._redrawn(mask)
        other = self._run(source)
        moved = other.output != self.base.output
        if bool((moved & ~spread).any()):  # a branch whose weights are 0 moves nothing, and mixes nothing
            return "a position moves others though its map is taken out", None
        if why := axes(self.base.calls, other.calls):
            return why, None
        return self._scanned() if scan else ("", None)

    def _scanned(self) -> tuple[str, Layout | None]:
        """The rows and columns of the positions under each token, by the bits of their numbers."""
        assert self.grid is not None
        rows, columns = self.grid
        every = self._changed(torch.ones(rows, columns, dtype=torch.bool))
        if every is None:
            return "its windows are not in order", None
        whole = every.shape[0] == 1
        prefix = int((~every[0]).sum()) if whole else 0
        if not bool(every[:, prefix:].all()):
            return "its windows are padded, and patches attend to padding", None
        where = []
        for axis, side in enumerate(self.grid):
            number = torch.zeros(every.shape, dtype=torch.long)
            for bit in range(max(side - 1, 0).bit_length()):
                line = (torch.arange(side) >> bit & 1).bool()
                mask = line[:, None].expand(rows, columns) if axis == 0 else line[None].expand(rows, columns)
                one, two = self._changed(mask), self._changed(~mask)
                if one is None or two is None or bool((one & two)[:, prefix:].any()):
                    return "its tokens stand for several positions each", None
                number |= one.long() << bit
            where.append(number[:, prefix:])
        return self._layout(*where)

    def _changed(self, mask: Tensor) -> Tensor | None:
        """(windows, tokens): which tokens of the map moved."""
        calls = [call for call in self._run(self._redrawn(mask)[0]).calls if call.diagonal is not None]
        base = [call for call in self.base.calls if call.diagonal is not None]
        if len(calls) != 1 or len(base) != 1:
            return None
        one, two = calls[0].diagonal, base[0].diagonal
        if one is None or two is None:
            return None
        moved = one != two  # (windows, heads, n), or with images and windows apart
        if moved.ndim == 2:
            moved = moved[None]
        elif moved.ndim == 4:
            moved = moved.flatten(0, 1)
        return moved.any(1)

    def _layout(self, rows: Tensor, columns: Tensor) -> tuple[str, Layout | None]:
        assert self.grid is not None
        windows, count = rows.shape
        tall = len(rows[0].unique())
        wide = count // tall
        if tall * wide != count:
            return "its windows are no rectangles", None
        by_row, by_column = rows.view(windows, tall, wide), columns.view(windows, tall, wide)
        if bool((by_row != by_row[:, :, :1]).any()) or bool((by_column != by_column[:, :1]).any()):
            return "the tokens of its windows are not in row order", None
        steps = []
        for line, side in ((by_row[:, :, 0], self.grid[0]), (by_column[:, 0], self.grid[1])):
            differences = (line[:, 1:] - line[:, :-1]) % side
            if len(differences.unique()) > 1:
                return "the positions of its windows are not evenly spaced", None
            steps.append(int(differences.flatten()[0]) if differences.numel() else 1)
        pixels = (self.size[0] // self.grid[0] * steps[0], self.size[1] // self.grid[1] * steps[1])
        return "", Layout((tall, wide), pixels, windows)
