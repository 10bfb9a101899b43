"""One model of the explorer: which of its blocks are stored, and their chunks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fdlab.encoders.attending import attending
from fdlab.encoders.encoder import Encoder, blocks_of, pair
from fdlab.encoders.layout import Layout, layouts
from fdlab.encoders.position_bias import position_biases
from fdlab.encoders.reading import heads_of, prefix_of
from fdlab.encoders.tap import AttentionCall
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.attention import uniform_distance
from fdlab.measures.stored_attention import Limits, StoredBias, StoredBlock, store_bias, store_block
from fdlab.report.explorer import ShownBlock, ShownModel, deflated

LARGE = 600  # tokens from which float32 is enough: the limits are far above its rounding
BASE64 = 4 / 3
BYTE = 0.8  # bytes of a stored integer after packing, at most as a rule


class StoredModel:
    """One model and the chunks of its page.

    Args:
        label: in the page.
        encoder: opened, its attention readable.
        blocks: which are stored, counted from 1; None: all.

    Raises:
        FdlabError: code 2, a block that the model does not have.
    """

    def __init__(self, label: str, encoder: Encoder, blocks: Sequence[int] | None = None) -> None:
        self.label, self.encoder = label, encoder
        self.size = pair(encoder.info.image_size)
        self.layouts, self.heads = layouts(encoder.module, encoder.info, self.size), heads_of(encoder)
        self.depth = len(self.layouts)
        wrong = [block for block in blocks or () if not 1 <= block <= self.depth]
        if wrong:
            raise FdlabError(
                f"{label} has no block {wrong[0]}.",
                f"It has {self.depth} blocks, counted from 1.",
                f"Give --blocks 1 to {self.depth}.",
                USAGE,
            )
        self.wanted = sorted({block - 1 for block in blocks}) if blocks else list(range(self.depth))
        self.chunks: dict[str, bytes] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, float] = {}
        self._blocks: dict[int, ShownBlock] = {}
        self._biases: dict[int, StoredBias] = {}

    @property
    def shown(self) -> ShownModel:
        """What the page says of it."""
        info = self.encoder.info
        blocks = [self._blocks[block] for block in self.wanted]
        return ShownModel(self.label, list(info.prefix_kinds), self.depth, blocks, info.source.startswith("random:"))

    def expected_bytes(self) -> float:
        """Of one image, at most as a rule, before any is stored."""
        return sum(map(self._expected, self.wanted))

    def _expected(self, block: int) -> float:
        place, heads, rank = self.layouts[block], self.heads[block], self._rank(block)
        tokens = place.patches + self.encoder.info.prefix_tokens
        if place.windows > 1 or tokens <= 2 * rank:
            return place.windows * heads * tokens * place.patches
        return 2 * BYTE * heads * tokens * rank

    def _rank(self, block: int) -> int:
        info, width = self.encoder.info, self.encoder.info.width
        if info.stage_depths:  # each stage doubles the width; the description has the last one's
            stage = next(n for n in range(len(info.stage_depths)) if block < sum(info.stage_depths[: n + 1]))
            width //= 2 ** (len(info.stage_depths) - 1 - stage)
        return max(1, width // self.heads[block])

    def keep(self, blocks: Sequence[int]) -> None:
        """Only these of the stored blocks stay, counted from 0."""
        self.wanted = sorted(blocks)
        for key in list(self.chunks):
            if int(key.split("-")[-1]) not in self.wanted:
                del self.chunks[key]
                self.facts.pop(key, None)

    def bytes_of(self, image: int) -> float:
        """Of the stored blocks of one image in the page."""
        keys = [key for key in self.facts if _image(key) == image]
        return sum(BASE64 * len(self.chunks[key]) + len(json.dumps(self.facts[key])) for key in keys)

    def bytes_of_biases(self) -> float:
        """Of what is stored once for all images, in the page."""
        return BASE64 * sum(len(data) for key, data in self.chunks.items() if key.startswith("b-"))

    def forget(self, image: int) -> None:
        """An image that does not fit into the page."""
        for key in [key for key in self.facts if _image(key) == image]:
            del self.chunks[key], self.facts[key]

    def store(self, number: int, image: int, raw: Tensor, limits: Limits) -> None:
        """Reads a (1, 3, H, W) image in one forward pass and stores its blocks.

        Args:
            number: of the model in the page, from 0.
            image: of the image in the page, from 0.
            raw: in [0, 1], at the model's size.
            limits: of the errors.
        """

        def on_call(call: AttentionCall) -> None:
            prefix = prefix_of(self.encoder, call, 1, self.layouts[call.block])
            if call.block in self.wanted:
                self._block(number, image, call, prefix, limits)

        with torch.no_grad(), attending(self.encoder, on_call, on_skip=lambda text: None):
            self.encoder.tokens(self.encoder.normalise(raw.to(self.encoder.device)))

    def _block(self, number: int, image: int, call: AttentionCall, prefix: int, limits: Limits) -> None:
        place = self.layouts[call.block]
        logits = call.logits().to("cpu", torch.float32 if call.shape[-1] > LARGE else torch.float64)
        if call.block not in self._blocks:
            self._describe(number, call.block, place, prefix, logits.shape[-1])
        kept = self._biases.get(call.block)
        bias = None if kept is None else kept.bias
        rank = self._rank(call.block)
        stored = store_block(logits, grid=place.grid, patch=place.patch, rank=rank, bias=bias, limits=limits)
        key = f"c-{number}-{image}-{call.block}"
        self.chunks[key] = deflated(stored.data)
        heads = [[head["rank"], head["wide"], head["step"]] for head in stored.heads]
        self.facts[key] = {"kind": stored.kind, "heads": heads, "numbers": _short(stored)}
        self.errors = {name: max(self.errors.get(name, 0.0), value) for name, value in stored.errors.items()}

    def _describe(self, number: int, block: int, place: Layout, prefix: int, tokens: int) -> None:
        uniform = uniform_distance(place.grid, place.patch)
        described = ShownBlock(block + 1, place.grid, place.patch, prefix, self.heads[block], uniform)
        if place.windows > 1:
            described.windows = self._windows(block)
        else:
            bias = self._bias(block, tokens)
            kept = None if bias is None else store_bias(bias, place.grid)
            if kept is not None:
                self._biases[block], described.bias, described.steps = kept, block, kept.steps
                self.chunks[f"b-{number}-{block}"] = deflated(kept.data)
        self._blocks[block] = described

    def _bias(self, block: int, tokens: int) -> Tensor | None:
        """(heads, T, T); None where the block has none that is known."""
        try:
            bias = position_biases(self.encoder.module).get(block)
        except (AttributeError, TypeError, FdlabError):  # a network that timm's names do not describe
            return None
        return bias if bias is not None and bias.shape[-1] == tokens else None

    def _windows(self, block: int) -> dict[str, list[int]]:
        own: Any = blocks_of(self.encoder.module)[block]
        resolution, shift = getattr(own, "input_resolution", None), getattr(own, "shift_size", None)
        if resolution is None or shift is None:
            raise FdlabError(
                f"The windows of block {block + 1} of {self.label} are not known.",
                "The explorer draws windows in the image, and needs to know where they lie.",
                "Explore a plain vision transformer, a Swin or a SwinV2.",
                NOT_UNDERSTOOD,
            )
        return {"image": [int(side) for side in resolution], "shift": [int(side) for side in pair(shift)]}


def _image(key: str) -> int:
    return int(key.split("-")[2])


def _short(stored: StoredBlock) -> dict[str, list[float | None]]:
    """Five digits are more than the page prints."""
    return {
        name: [None if value is None else float(f"{value:.5g}") for value in values]
        for name, values in stored.numbers.items()
    }
