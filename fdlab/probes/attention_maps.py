"""Averaged attention maps, what the metrics say of them, and learnt relative-position biases; on request.

A map a head is large and the average hides what differs between images, so ``attention`` never keeps maps: this
probe does, in groups of images, so that every number of a mean map has an interval (delete-a-group jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdlab.encoders.attending import attending, attention_refusal, check_attention
from fdlab.encoders.layout import Layout, layouts
from fdlab.encoders.position_bias import position_biases
from fdlab.encoders.reading import (
    Advances,
    SlicedImages,
    heads_of,
    layout_facts,
    prefix_of,
)
from fdlab.encoders.tap import AttentionCall
from fdlab.errors import OUT_OF_SPACE, USAGE, FdlabError
from fdlab.measures.attention import attention_metrics
from fdlab.measures.attention_sums import offset_counts, offset_sums
from fdlab.measures.basis import free_memory
from fdlab.probes.probe import Probe, batches_of, check_images, manifest_of, untouched
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import jackknife_interval
from fdlab.records.metrics import METRICS
from fdlab.records.metrics.names import OF_MEAN
from fdlab.records.store import Record
from fdlab.records.table import frame

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 1
GROUPS = 8  # sums of maps that are kept: the jackknife's folds
AT_ONCE = 500_000  # map entries turned to float32 at a time
CELLS = 7  # along each side of the grid, in the table; the record's arrays hold every patch


@untouched
def measure_attention_maps(
    encoder: Encoder,
    images: Tensor | SlicedImages,
    *,
    label: str,
    seed: int = 0,
    batch: int = 32,
    progress: Advances | None = None,
    blocks: Sequence[int] | None = None,
) -> Record:
    """Mean attention map of every block and head, metrics on it, and the learnt biases where the model has some.

    Do not read a broad mean map as broad attention: what differs between images is averaged away, and more images
    make it flatter (``entropy`` beside ``entropy_of_mean`` shows by how much). Distances and the diagonal are linear
    in the map, so those of the mean map are the means that ``attention`` gives.

    Args:
        encoder: as for ``attention``; maps of windows are averaged over windows too.
        images: (n, 3, H, W) float32 in [0, 1], at the model's input size, not normalised.
        label: the model's name in the table.
        seed: stands in the table; nothing here is random.
        batch: images in one forward pass.
        progress: is told after each batch.
        blocks: which blocks, from 0 or negative from the end; all by default. Fewer need less memory.

    Returns:
        A record. ``table``: NAME_of_mean per block and head (or block); ``attention_map`` of the head with the
        smallest and the largest distance in the first, middle and last block, on at most 7 x 7 cells;
        ``relative_bias`` of the same heads. ``arrays``: ``mean_map_BLOCK`` (heads, N, N) over patches, rows sum to
        1; ``position_bias_BLOCK`` (heads, 2 Gh - 1, 2 Gw - 1) by offset from query to key.

    Raises:
        FdlabError: code 4, the sums of the maps do not fit into memory; and the errors of ``attention``.
    """
    check_images(images)
    check_attention(encoder)
    grids = layouts(encoder.module, encoder.info, images.shape[-2:])
    wanted = _chosen(blocks, len(grids))
    _check_memory(encoder, images.shape[-2:], wanted)
    sums = _Sums(encoder, grids, wanted)
    for _, raw in batches_of(images, batch, progress):
        sums.add(raw)
    arrays: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = []
    biases, shown = position_biases(encoder.module), {wanted[0], wanted[len(wanted) // 2], wanted[-1]}
    for block in wanted:
        mean = sums.mean(block)
        arrays[f"mean_map_{block}"] = mean.float().numpy()
        heads = _nearest_and_farthest(mean, grids[block]) if block in shown else []
        block_rows = _map_rows(sums, block, grids[block], heads)
        if block in biases:
            by_offset = _by_offset(biases[block], grids[block])
            arrays[f"position_bias_{block}"] = by_offset
            block_rows += _bias_rows(by_offset, grids[block], heads)
        rows += [{**row, "block": block, "depth": (block + 1) / len(grids)} for row in block_rows]
    manifest = manifest_of("attention_maps", VERSION, encoder, label, seed, sums.count) | layout_facts(encoder, grids)
    manifest |= {"offered": len(images), "blocks": wanted}
    columns = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "attention_maps", "objective": ""}
    return Record(frame([{**columns, **row} for row in rows]), arrays, manifest)


# --- memory ---------------------------------------------------------------------------------------------


def memory(encoder: Encoder, size: Sequence[int], blocks: Iterable[int] | None = None) -> int:
    """Bytes of the sums of maps that a measurement on images of ``size`` (height, width) keeps."""
    grids, heads = layouts(encoder.module, encoder.info, size), heads_of(encoder)
    kept = range(len(grids)) if blocks is None else blocks
    return sum(4 * GROUPS * heads[block] * grids[block].patches ** 2 for block in kept)


def announcement(encoder: Encoder, size: Sequence[int], settings: Mapping[str, Any]) -> str:
    """How much memory the maps will take, said before the probe starts."""
    wanted = _chosen(settings.get("blocks"), encoder.info.depth)
    return f"averaged maps keep {memory(encoder, size, wanted) / 2**20:.1f} MiB of sums in memory"


def _check_memory(encoder: Encoder, size: Sequence[int], blocks: list[int]) -> None:
    needed, free = memory(encoder, size, blocks), free_memory(torch.device(encoder.device))
    if needed > free:
        raise FdlabError(
            f"The averaged maps of {len(blocks)} blocks need {needed / 2**30:.1f} GiB of memory.",
            f"{free / 2**30:.1f} GiB can be used on {encoder.device}.",
            "Ask for fewer blocks: fdlab.measure('attention_maps', ..., blocks=(0, -1)).",
            OUT_OF_SPACE,
        )


def _chosen(blocks: Sequence[int] | None, depth: int) -> list[int]:
    wrong = [block for block in blocks or () if not -depth <= block < depth]
    if wrong or (blocks is not None and not len(blocks)):
        raise FdlabError(
            f"No block {wrong[0]}." if wrong else "No block is asked for.",
            f"The model has {depth} blocks, counted from 0.",
            f"Use 0 to {depth - 1}, or -1 for the last.",
            USAGE,
        )
    return list(range(depth)) if blocks is None else sorted({block % depth for block in blocks})


# --- sums over images ---------------------------------------------------------------------------------


class _Sums:
    """Sums of patch maps, (GROUPS, heads, N, N) a block: image i is in group i modulo GROUPS."""

    def __init__(self, encoder: Encoder, grids: list[Layout], blocks: list[int]) -> None:
        self.encoder, self.grids, self.count = encoder, grids, 0
        heads = heads_of(encoder)
        shapes = {block: (GROUPS, heads[block], grids[block].patches, grids[block].patches) for block in blocks}
        self.of = {block: torch.zeros(shape, device=encoder.device) for block, shape in shapes.items()}

    def add(self, raw: Tensor) -> None:
        """Adds the maps of (b, 3, H, W) images in one forward pass."""
        count = len(raw)
        groups = (torch.arange(count) + self.count).remainder(GROUPS).to(self.encoder.device)

        def on_call(call: AttentionCall) -> None:
            layout = self.grids[call.block]
            prefix = prefix_of(self.encoder, call, count, layout)
            if call.block not in self.of:
                return
            step = max(1, AT_ONCE // (layout.windows * call.shape[1] * call.shape[-1] ** 2))
            for first in range(0, count, step):
                windows = slice(first * layout.windows, min(first + step, count) * layout.windows)
                maps = call.logits(windows, slice(prefix, None))[..., prefix:].softmax(-1)
                maps = maps.unflatten(0, (-1, layout.windows)).mean(1).float()
                self.of[call.block].index_add_(0, groups[first : first + step], maps)

        with torch.no_grad(), attending(self.encoder, on_call, on_skip=lambda text: None):
            self.encoder.tokens(self.encoder.normalise(raw.to(self.encoder.device)))
        self.count += count

    def mean(self, block: int, kept: np.ndarray | None = None) -> Tensor:
        """(heads, N, N) float64 on the CPU: the mean map of all images, or of those in ``kept``'s groups."""
        if kept is None:
            return self.of[block].sum(0).double().cpu() / self.count
        groups = torch.from_numpy(np.unique(kept % GROUPS)).to(self.encoder.device)
        return self.of[block][groups].sum(0).double().cpu() / len(kept)


# --- rows -----------------------------------------------------------------------------------------------


class _Cells(NamedTuple):
    """How patches become cells: each patch's cell, and the number of cells."""

    of: Tensor
    number: int


def cells(grid: tuple[int, int]) -> _Cells:
    """At most CELLS x CELLS cells of neighbouring patches, row major."""
    sizes = [math.ceil(side / CELLS) for side in grid]
    down, across = (torch.arange(side) // size for side, size in zip(grid, sizes, strict=True))
    width = int(across.max()) + 1
    return _Cells((down[:, None] * width + across).flatten(), (int(down.max()) + 1) * width)


def coarse(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., N, N) maps -> (..., cells, cells): mean attention between patches of two cells, times N; uniform is 1."""
    of, number = cells(grid)
    share = torch.nn.functional.one_hot(of, number).to(maps.dtype)
    share = share / share.sum(0)
    return torch.einsum("ic,...ij,jd->...cd", share, maps, share) * len(of)


def _nearest_and_farthest(mean: Tensor, layout: Layout) -> list[int]:
    """The heads with the smallest and the largest distance, from (heads, N, N) mean maps."""
    distances = attention_metrics(mean[None], grid=layout.grid, patch_size=layout.patch, metrics=["distance"])
    distance = distances["distance"][0]
    return list(dict.fromkeys([int(distance.argmin()), int(distance.argmax())]))


def _map_rows(sums: _Sums, block: int, layout: Layout, heads: list[int]) -> list[dict[str, Any]]:
    """Metrics of one block's mean map, and the cells of the shown heads, with jackknife intervals."""

    def statistic(kept: np.ndarray) -> np.ndarray:
        mean = sums.mean(block, kept)
        metrics = attention_metrics(mean[None], grid=layout.grid, patch_size=layout.patch, metrics=OF_MEAN)
        parts = [*(metrics[name].flatten() for name in OF_MEAN), coarse(mean[heads], layout.grid).flatten()]
        return torch.cat(parts).numpy()

    estimate = jackknife_interval(sums.count, statistic, folds=GROUPS)
    numbers = iter(range(len(estimate.value)))  # in the order of the statistic
    count, rows = sums.of[block].shape[1], []
    for name in OF_MEAN:
        entry = METRICS[f"{name}_of_mean"]
        for head in [None] if name.startswith("head_") else range(count):
            bounded = _bounded(estimate, next(numbers), sums.count, entry.low, entry.high)
            rows.append({"metric": entry.name, "unit": entry.unit, "head": head, **bounded})
    size = cells(layout.grid).number
    for head in heads:
        for query, key in np.ndindex(size, size):
            bounded = _bounded(estimate, next(numbers), sums.count, 0.0, None)
            rows.append({"metric": "attention_map", "head": head, "x": key, "y": query, **bounded})
    return rows


def _bounded(estimate: Estimate, number: int, n: int, low: float | None, high: float | None) -> dict[str, Any]:
    """One of many values; the jackknife's symmetric interval does not know what values are possible."""
    value = float(estimate.value[number])
    lowest, highest = (-math.inf if low is None else low), (math.inf if high is None else high)
    ends = np.clip([estimate.low[number], estimate.high[number]], min(lowest, value), max(highest, value))
    return {"value": value, "low": float(ends[0]), "high": float(ends[1]), "n": n}


def _by_offset(bias: Tensor, layout: Layout) -> np.ndarray:
    """(heads, T, T) -> (heads, 2 Gh - 1, 2 Gw - 1) over patches, less the mean over all pairs."""
    patches = bias[..., -layout.patches :, -layout.patches :].double().cpu()
    sums = offset_sums(patches - patches.mean((-2, -1), keepdim=True), layout.grid)
    return (sums / offset_counts(layout.grid, sums.device)).float().numpy()


def _bias_rows(by_offset: np.ndarray, layout: Layout, heads: list[int]) -> list[dict[str, Any]]:
    down, across = layout.grid
    return [
        {"metric": "relative_bias", "head": head, "x": x - across + 1, "y": y - down + 1, "value": float(value)}
        for head in heads
        for (y, x), value in np.ndenumerate(by_offset[head])
    ]


PROBE = Probe(
    measure=measure_attention_maps,
    version=VERSION,
    known_answers="attention",
    settings=("blocks",),
    announcement=announcement,
    refusal=lambda encoder, _settings: attention_refusal(encoder),
)
