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

from fdlab.encoders.layout import Layout, layouts
from fdlab.encoders.reading import Advances, SlicedImages, heads_of, manifest_of, prefix_of
from fdlab.encoders.tap import AttentionCall, tap
from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.attention import ALL, metrics_from_sums, sums_for
from fdlab.measures.attention_sums import BY_KIND, QuerySums
from fdlab.probes.probe import Probe
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import interval_of_means, mean_interval
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 5
# map entries handled at once: a processor's cache is left soon, a graphics card wants long work
_SLICE = {"cpu": 500_000, "cuda": 64_000_000}


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
        earlier: the record of the first of these images, same model and settings: only the rest is looked at.

    Returns:
        A record: ``table`` with one row per metric, block and head (or block); ``arrays[metric]`` per image,
        (n, blocks, heads) or (n, blocks); the manifest.

    Raises:
        FdlabError: windows of an unknown kind or with padding, pooled tokens, or only a part of the attention
            could be read.
    """
    wanted = _wanted(metrics)
    if len(images.shape) != 4 or len(images) == 0:
        raise FdlabError(f"Images of shape {tuple(images.shape)} cannot be measured.", "", "Pass (n, 3, H, W).", USAGE)
    places = layouts(encoder.module, encoder.info, images.shape[-2:])
    skipped: dict[str, None] = {}
    computed = [name for name in ALL if name in wanted or (name == "distance" and wanted & set(SPREADS))]
    parts = [earlier.arrays] if earlier is not None else []
    for start in range(earlier.manifest["offered"] if earlier is not None else 0, len(images), batch):
        raw = images[start : start + batch]
        if not len(raw):  # none of these could be read
            continue
        parts.append(_one_batch(encoder, raw, places, computed, skipped, renormalise))
        if progress is not None:
            progress.advance(len(raw))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = _rows(arrays, wanted, seed, heads_of(encoder))
    same = {
        "model": label,
        "family": encoder.info.family,
        "seed": seed,
        "probe": "attention",
        "objective": "",
    }
    manifest = manifest_of(encoder, label, seed, len(arrays[computed[0]]), places)
    manifest |= {"probe": "attention", "version": VERSION}
    manifest["renormalise"] = renormalise
    manifest["offered"] = len(images)  # with those that could not be read
    manifest["not_measured"] = list(skipped) or (earlier.manifest["not_measured"] if earlier is not None else [])
    return Record(frame([{**same, **row} for row in rows]), arrays, manifest)


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
    places: list[Layout],
    names: list[str],
    skipped: dict[str, None],
    renormalise: bool,
) -> dict[str, np.ndarray]:
    """{metric: (b, blocks, heads) or (b, blocks)} of one batch; NaN where a block has fewer heads."""
    at_once = _SLICE["cpu" if torch.device(encoder.device).type == "cpu" else "cuda"]
    blocks: list[dict[str, Tensor]] = []

    def on_call(call: AttentionCall) -> None:
        place = places[call.block]
        prefix = prefix_of(encoder, call, len(raw), place)
        slices = [
            _measured(call, images, prefix, place, at_once, encoder, set(names), renormalise)
            for images in _image_slices(call, at_once)
        ]
        joined = {name: torch.cat([part[name].float() for part in slices]) for name in slices[0]}
        # windows of one image lie together, as timm cuts them
        blocks.append({name: v.unflatten(0, (len(raw), place.windows)).nanmean(1) for name, v in joined.items()})

    with torch.no_grad(), tap(encoder.module, on_call, on_skip=lambda text: skipped.setdefault(text)):
        encoder.tokens(encoder.normalise(raw.to(encoder.device)))
    return {name: _stacked([block[name] for block in blocks]) for name in blocks[0]}


def _image_slices(call: AttentionCall, at_once: int) -> list[slice]:
    """As many images (or windows) at a time as fit, at least one."""
    step = max(1, at_once // (call.shape[1] * call.shape[-1] ** 2))
    return [slice(first, first + step) for first in range(0, call.shape[0], step)]


def _measured(
    call: AttentionCall, images: slice, prefix: int, place: Layout, at_once: int, encoder: Encoder, names: set[str],
    renormalise: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """The numbers of some images; of a single one that is too large, some rows of patches at a time."""
    kinds = encoder.info.prefix_kinds if prefix else ()
    sums = QuerySums(place.grid, place.patch, prefix, sums_for(names), renormalise, kinds)
    across = place.grid[1]
    rows = max(1, 2 * at_once // (call.shape[1] * call.shape[-1] * across))
    for first in range(0, place.patches, rows * across):
        last = min(first + rows * across, place.patches)
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
    for name, over_heads in SPREADS.items():
        if name in wanted:
            distances = arrays["distance"]
            found = interval_of_means(distances, over_heads, seed)
            # A spread is never negative; the jackknife's symmetric interval does not know that.
            found = found._replace(low=np.maximum(found.low, 0.0))
            rows += _interval_rows(name, np.fmin.reduce(distances, axis=-1), found, heads)
    return rows


def _range(means: np.ndarray) -> np.ndarray:
    """Over heads, the last axis."""
    return np.asarray(np.fmax.reduce(means, axis=-1) - np.fmin.reduce(means, axis=-1))


def _deviation(means: np.ndarray) -> np.ndarray:
    """Over heads, n - 1; NaN for a single head. NaN heads do not exist."""
    count = (~np.isnan(means)).sum(axis=-1)
    centred = means - np.nansum(means, axis=-1, keepdims=True) / np.maximum(count, 1)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.sqrt(np.nansum(centred**2, axis=-1) / np.where(count > 1, count - 1, np.nan)))


# one value a block, from the image-averaged distances
SPREADS = {"distance_spread": _range, "distance_sd": _deviation}


def _interval_rows(name: str, values: np.ndarray, found: Estimate, heads: list[int]) -> list[dict[str, Any]]:
    """One row per block (and head): ``values`` (n, blocks[, heads]) gives the count of defined images."""
    counts = (~np.isnan(values)).sum(axis=0)
    return [
        {
            "metric": name,
            "block": place[0],
            "depth": (place[0] + 1) / counts.shape[0],
            "head": place[1] if len(place) > 1 else None,
            "value": float(found.value[place]),
            "low": float(found.low[place]),
            "high": float(found.high[place]),
            "n": int(counts[place]),
            "unit": METRICS[name].unit,
        }
        for place in np.ndindex(counts.shape)
        if len(place) == 1 or place[1] < heads[place[0]]
    ]


def _wanted(metrics: Iterable[str] | None) -> set[str]:
    known = (*ALL, *SPREADS)
    wanted = set(known if metrics is None else metrics)
    for name in sorted(wanted - set(known)):
        raise FdlabError(
            f"No attention metric is called '{name}'.{nearest(name, known)}",
            "",
            f"Known: {', '.join(known)}.",
            USAGE,
        )
    return wanted


PROBE = Probe(
    measure=measure_attention,
    version=VERSION,
    settings=("metrics", "renormalise"),
    takes=("earlier",),
    intervals_anew=intervals_anew,
)
