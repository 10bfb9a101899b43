"""The proof that all attention was seen: without it a network works on each token alone.

Every recorded map becomes the identity, then one patch of the image is drawn again: exactly one final token may
change, bit for bit. One test proves that no attention was missed, and which tokens are a prefix, on which grid and in
which order the others lie. Attention between channels also works on each token alone; the axes of its map give it away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import picked
from fdlab.encoders.witness import Pass, Seen, witnessed


@dataclass
class Verdict:
    """Which tokens moved; ``why`` is empty where the attention is complete."""

    why: str = ""
    prefix: int | None = None  # tokens that no image changes
    prefix_last: bool = False
    disorder: str = ""
    leak: bool = False  # something mixes tokens, and nothing names it: convolutions, or attention without a map


class KnockOut:
    """Passes with and without one cell redrawn.

    Args:
        run: (images) -> output of one forward pass.
        tokens: (images) -> (1, N, C) final tokens in their own order, by the same forward pass.
        image: (1, C, H, W) noise.
    """

    def __init__(self, module: nn.Module, tokens: Callable[[Tensor], Tensor], image: Tensor) -> None:
        self.module, self.tokens, self.image = module, tokens, image
        self.base = self._pass(image, keep=False)
        self.final: Tensor = self.base.output

    def _pass(self, image: Tensor, keep: bool) -> Pass:
        return witnessed(self.module, lambda: self.tokens(image), knock_out=True, keep=keep)

    def moved(self, image: Tensor) -> tuple[list[int], Pass]:
        """The final tokens that differ from those of the first image."""
        other = self._pass(image, keep=False)
        return (other.output != self.final)[0].any(-1).nonzero().flatten().tolist(), other

    def redrawn(self, mask: Tensor, seed: int = 7) -> Tensor:
        """The image with other noise where (H, W) ``mask`` is true."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.image.shape, generator=generator).to(self.image)
        return torch.where(mask.to(self.image.device), noise, self.image)

    def cell(self, grid: tuple[int, int], row: int, column: int) -> Tensor:
        """The image with one cell of the grid redrawn."""
        height, width = self.image.shape[-2:]
        mask = torch.zeros(height, width, dtype=torch.bool)
        tall, wide = height // grid[0], width // grid[1]
        mask[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] = True
        return self.redrawn(mask)

    def prefix(self) -> tuple[int, bool]:
        """How many tokens no image changes, and whether they stand behind the others."""
        height, width = self.image.shape[-2:]
        moved, _ = self.moved(self.redrawn(torch.ones(height, width, dtype=torch.bool)))
        count = self.final.shape[1]
        still = sorted(set(range(count)) - set(moved))
        if still and still == list(range(len(still))):
            return len(still), False
        if still and still == list(range(count - len(still), count)):
            return len(still), True
        return 0, False

    def judge(self, grid: tuple[int, int], prefix: int, last: bool = False, cells: int = 5) -> Verdict:
        """Whether one redrawn cell moves exactly its own token, for up to five cells."""
        rows, columns = grid
        places = [(0, 0), (rows // 2, columns // 2), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
        places = list(dict.fromkeys(places))[:cells]
        first = 0 if last else prefix
        loose = any(not call.square for call in self.base.calls)  # a class attention may read all patches
        around = set(range(prefix)) if not last else set(range(rows * columns, rows * columns + prefix))
        for number, (row, column) in enumerate(places):
            moved, other = self.moved(self.cell(grid, row, column))
            if loose:
                moved = [token for token in moved if token not in around]
            wanted = first + row * columns + column
            if moved == [wanted]:
                if number == 0 and (why := axes(self.base.calls, other.calls)):
                    return Verdict(why)
                continue
            if len(moved) == 1:
                return Verdict(
                    disorder=f"Patch ({row}, {column}) is token {moved[0] - first}, not {row * columns + column}."
                )
            why = self._leak(grid, row, column, len(moved))
            return Verdict(why, leak="without a map" in why and not self.base.foreign)
        return Verdict()

    def _leak(self, grid: tuple[int, int], row: int, column: int, moved: int) -> str:
        """What mixes tokens though every map that was seen is taken out."""
        if moved == 0:
            return "the final tokens do not depend on one patch of the image"
        pooled = [call for call in self.base.calls if not call.square and call.queries > 1]
        if pooled:
            call = pooled[0]
            return f"{call.owner}: keys are pooled ({call.queries} queries, {call.keys} keys)"
        if self.base.foreign:
            owner, name = self.base.foreign[0]
            return f"{owner} mixes tokens without a map that fdlab sees: op {name}"
        where = self._first_leak(self.cell(grid, row, column), grid[0] * grid[1])
        name = f"{where[0]} ({type(self.module.get_submodule(where[0])).__name__})" if where else "something"
        return f"{name} mixes tokens without a map that fdlab sees: {moved} of {self.final.shape[1]} tokens moved"

    def _first_leak(self, image: Tensor, patches: int) -> tuple[str, int] | None:
        """The first module whose output differs in more than one of its tokens."""
        one, two = self._pass(self.image, keep=True), self._pass(image, keep=True)
        for (name, before), (_, after) in zip(one.ended, two.ended, strict=False):
            first, second = picked(before), picked(after)
            if not (isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape):
                continue
            if first.ndim < 3 or first.shape[1] < patches:
                continue
            changed = int((first != second).flatten(2).any(-1).sum()) if first.ndim == 3 else 0
            if changed > 1 and name:
                return name, changed
        return None


def axes(base: list[Seen], other: list[Seen]) -> str:
    """Names the first call whose map is not between tokens: one redrawn patch moves its whole diagonal."""
    for before, after in zip(base, other, strict=False):
        if before.diagonal is None or after.diagonal is None or before.diagonal.shape != after.diagonal.shape:
            continue
        changed = (before.diagonal != after.diagonal).double().mean()
        if changed > 0.75:  # one cell is at most half of the tokens, in all windows together
            return _between_channels(before)
    return ""


def _between_channels(call: Seen) -> str:
    return f"{call.owner or 'it'} attends between channels ({call.queries} x {call.keys}), not between tokens"


def remixed(calls: list[Seen]) -> str:
    """Names the first square map that no product applied as the softmax made it."""
    call: Any = next((call for call in calls if call.square and not call.applied), None)
    return f"{call.owner}: its map is changed after the softmax" if call is not None else ""
