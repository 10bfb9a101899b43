"""The attention probe: how far, how broadly and how differently the heads of a model attend.

One forward pass over the images; every block's attention is turned into numbers where the model computes
it and is then gone, so that memory does not grow with the depth. Statistics are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.encoders.attending import attending, attention_refusal, check_attention
from fdlab.encoders.layout import Layout, layouts
from fdlab.encoders.reading import (
    Advances,
    SlicedImages,
    heads_of,
    layout_facts,
    prefix_of,
)
from fdlab.encoders.tap import AttentionCall
from fdlab.measures.attention import ALL, metrics_from_sums, sums_for
from fdlab.measures.attention_sums import BY_KIND, QuerySums
from fdlab.probes.probe import Probe, batches_of, check_images, check_name, manifest_of, untouched
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval
from fdlab.records.metrics import METRICS
from fdlab.records.spread import SPREADS, spread_over_heads
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 5
# map entries handled at once: a processor's cache is left soon, a graphics card wants long work
_SLICE = {"cpu": 500_000, "cuda": 64_000_000}


@untouched
def measure_attention(
    encoder: Encoder,
    images: Tensor | SlicedImages,
    *,
    label: str,
    seed: int = 0,
    batch: int = 32,
    progress: Advances | None = None,
    metrics: Iterable[str] | None = None,
    renormalise: bool = True,
    earlier: Record | None = None,
) -> Record:
    """Attention metrics of every block and head of one model.

    Do not read a large distance alone as "global" attention: uniform attention has it too (the manifest's
    ``uniform_by_block_px``), and do not compare models on different images or input sizes in pixels.

    Windowed models (Swin, SwinV2) are measured inside their windows, in pixels of the input, and averaged over
    an image's windows: their distances are bounded by the window, each stage has its own uniform line.

    Args:
        encoder: a plain or Swin-like model; blocks that pool their tokens are refused.
        images: (n, 3, H, W) float32 in [0, 1], at the model's input size, not normalised: a tensor, or what
            gives one slice of it after another.
        label: the model's name in the table.
        seed: of the bootstrap.
        batch: images in one forward pass.
        progress: told after each batch.
        metrics: names to compute; all by default. Several kinds of prefix tokens add ``prefix_mass_KIND``.
        renormalise: False leaves ``distance``, its ratio and spreads unnormalised over the patches, as some
            published plots have them: attention on prefix tokens then makes them smaller.
        earlier: the record of the first of these images, same model and settings: only the rest is measured.

    Returns:
        A record: ``table`` with one row per metric, block and head (or block); ``arrays[metric]`` per image,
        (n, blocks, heads) or (n, blocks); the manifest.

    Raises:
        FdlabError: windows of an unknown kind or with padding, pooled tokens, or only a part of the attention
            could be read.
    """
    wanted = _wanted(metrics)
    check_images(images)
    check_attention(encoder)
    grids = layouts(encoder.module, encoder.info, images.shape[-2:])
    skipped: dict[str, None] = {}
    computed = [name for name in ALL if name in wanted or (name == "distance" and wanted & set(SPREADS))]
    parts, offered = ([], 0) if earlier is None else ([earlier.arrays], int(earlier.manifest["offered"]))
    for _, raw in batches_of(images, batch, progress, offered):
        parts.append(_one_batch(encoder, raw, grids, computed, skipped, renormalise))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = _rows(arrays, wanted, seed, heads_of(encoder))
    columns = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "attention", "objective": ""}
    measured = len(arrays[computed[0]])
    manifest = manifest_of("attention", VERSION, encoder, label, seed, measured) | layout_facts(encoder, grids)
    manifest["renormalise"] = renormalise
    manifest["offered"] = len(images)  # with those that could not be read
    manifest["not_measured"] = list(skipped) or (earlier.manifest["not_measured"] if earlier is not None else [])
    return Record(frame([{**columns, **row} for row in rows]), arrays, manifest)


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with all intervals made again from its arrays."""
    heads = [array.shape[2] for array in record.arrays.values() if array.ndim == 3][:1] or [0]
    blocks = next(iter(record.arrays.values())).shape[1]
    rows = _rows(record.arrays, set(record.table["metric"]), seed, heads * blocks)  # absent heads have no row to fill
    return replace(record, table=with_bounds(record.table, rows))


# --- one forward pass ----------------------------------------------------------------------------------


def _one_batch(
    encoder: Encoder,
    raw: Tensor,
    grids: list[Layout],
    names: list[str],
    skipped: dict[str, None],
    renormalise: bool,
) -> dict[str, np.ndarray]:
    """{metric: (b, blocks, heads) or (b, blocks)} of one batch; NaN where a block has fewer heads."""
    at_once = _SLICE["cpu" if torch.device(encoder.device).type == "cpu" else "cuda"]
    blocks: list[dict[str, Tensor]] = []

    def on_call(call: AttentionCall) -> None:
        layout = grids[call.block]
        prefix = prefix_of(encoder, call, len(raw), layout)
        slices = [
            _measured(call, images, prefix, layout, at_once, encoder, set(names), renormalise)
            for images in _image_slices(call, at_once)
        ]
        joined = {name: torch.cat([part[name].float() for part in slices]) for name in slices[0]}
        # windows of one image lie together, as timm cuts them
        blocks.append({name: v.unflatten(0, (len(raw), layout.windows)).nanmean(1) for name, v in joined.items()})

    with torch.no_grad(), attending(encoder, on_call, on_skip=lambda text: skipped.setdefault(text)):
        encoder.tokens(encoder.normalise(raw.to(encoder.device)))
    return {name: _stacked([block[name] for block in blocks]) for name in blocks[0]}


def _image_slices(call: AttentionCall, at_once: int) -> list[slice]:
    """As many images (or windows) at a time as fit, at least one."""
    step = max(1, at_once // (call.shape[1] * call.shape[-1] ** 2))
    return [slice(first, first + step) for first in range(0, call.shape[0], step)]


def _measured(
    call: AttentionCall, images: slice, prefix: int, layout: Layout, at_once: int, encoder: Encoder, names: set[str],
    renormalise: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """The numbers of some images; of a single one that is too large, some rows of patches at a time."""
    kinds = encoder.info.prefix_kinds if prefix else ()
    sums = QuerySums(layout.grid, layout.patch, prefix, sums_for(names), renormalise, kinds)
    across = layout.grid[1]
    rows = max(1, 2 * at_once // (call.shape[1] * call.shape[-1] * across))
    for first in range(0, layout.patches, rows * across):
        last = min(first + rows * across, layout.patches)
        sums.add(call.logits(images, slice(prefix + first, prefix + last)), first)
    return metrics_from_sums(sums, names)


def _stacked(blocks: list[Tensor]) -> np.ndarray:
    """(b, blocks[, heads]): the blocks of one model, filled up with NaN to the largest number of heads."""
    if blocks[0].dim() > 1:
        most = max(block.shape[1] for block in blocks)
        blocks = [F.pad(block, (0, most - block.shape[1]), value=math.nan) for block in blocks]
    return torch.stack(blocks, 1).cpu().numpy()


# --- from per-image values to rows -----------------------------------------------------------------------


def _rows(arrays: dict[str, np.ndarray], wanted: set[str], seed: int, heads: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in (*ALL, *BY_KIND):
        if name in arrays and (name in wanted or name in BY_KIND):
            rows += _interval_rows(name, arrays[name], mean_interval(arrays[name], seed), heads)
    for name in SPREADS:
        if name in wanted:
            distances = arrays["distance"]
            rows += _interval_rows(
                name, np.fmin.reduce(distances, axis=-1), spread_over_heads(distances, name, seed), heads
            )
    return rows


def _interval_rows(name: str, values: np.ndarray, mean: Estimate, heads: list[int]) -> list[dict[str, Any]]:
    """One row per block (and head): ``values`` (n, blocks[, heads]) gives the count of defined images."""
    counts = (~np.isnan(values)).sum(axis=0)
    return [
        {
            "metric": name,
            "block": index[0],
            "depth": (index[0] + 1) / counts.shape[0],
            "head": index[1] if len(index) > 1 else None,
            "value": float(mean.value[index]),
            "low": float(mean.low[index]),
            "high": float(mean.high[index]),
            "n": int(counts[index]),
            "unit": METRICS[name].unit,
        }
        for index in np.ndindex(counts.shape)
        if len(index) == 1 or index[1] < heads[index[0]]
    ]


def _wanted(metrics: Iterable[str] | None) -> set[str]:
    known = (*ALL, *SPREADS)
    wanted = set(known if metrics is None else metrics)
    for name in sorted(wanted):
        check_name("No attention metric is called", name, known)
    return wanted


PROBE = Probe(
    measure=measure_attention,
    version=VERSION,
    known_answers="attention",
    settings=("metrics", "renormalise"),
    takes=("earlier",),
    intervals_anew=intervals_anew,
    refusal=lambda encoder, _settings: attention_refusal(encoder),
)
