"""The attention probe: how far, how broadly and how differently the heads of a model attend.

One forward pass over the images; every block's attention is turned into numbers where the model computes
it and is then gone, so that memory does not grow with the depth. Statistics are float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fdlab.encoders.tap import AttentionCall, tap
from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.measures.attention import ALL, metrics_from_logits, uniform_distance
from fdlab.records.intervals import Interval, interval_of_means, mean_interval
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record
from fdlab.records.table import frame

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 1
# map entries handled at once: a processor's cache is left soon, a graphics card wants long work
_SLICE = {"cpu": 500_000, "cuda": 64_000_000}


class SlicedImages(Protocol):
    """(n, 3, H, W) images of which one slice at a time is read."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Tensor: ...


class Advances(Protocol):
    """What progress is told to: ``fdlab.progress.Progress``."""

    def advance(self, units: int = 1, note: str = "") -> None: ...


def measure_attention(
    encoder: Encoder,
    images: Tensor | SlicedImages,
    *,
    label: str,
    seed: int = 0,
    batch: int = 32,
    progress: Advances | None = None,
    metrics: Iterable[str] | None = None,
) -> Record:
    """Attention metrics of every block and head of one model.

    Do not read a large distance alone as "global" attention: uniform attention has it too (the manifest's
    ``uniform_distance_px``), and do not compare models on different images or input sizes in pixels.

    Args:
        encoder: the model, of one token grid (no windows, no pooling between blocks).
        images: (n, 3, H, W) float32 in [0, 1], at the model's input size, not normalised: a tensor, or what
            gives one slice of it after another.
        label: the model's name in the table.
        seed: of the bootstrap.
        batch: images in one forward pass.
        progress: told after each batch.
        metrics: names to compute; all by default.

    Returns:
        A record: ``table`` with one row per metric, block and head (or block); ``arrays[metric]`` per image,
        (n, blocks, heads) or (n, blocks); the manifest.

    Raises:
        FdlabError: the model is windowed or hierarchical, or only a part of its attention could be read.
    """
    wanted = _wanted(metrics)
    if len(images.shape) != 4 or len(images) == 0:
        raise FdlabError(f"Images of shape {tuple(images.shape)} cannot be measured.", "", "Pass (n, 3, H, W).", USAGE)
    patch = int(encoder.info.patch_size)
    grid = (int(images.shape[-2]) // patch, int(images.shape[-1]) // patch)
    computed = [name for name in ALL if name in wanted or (name == "distance" and wanted & set(SPREADS))]
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), batch):
        raw = images[start : start + batch]
        if not len(raw):  # none of these could be read
            continue
        parts.append(_one_batch(encoder, raw, grid, computed))
        if progress is not None:
            progress.advance(len(raw))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in computed}
    rows = _rows(arrays, wanted, seed)
    same = {
        "model": label,
        "family": encoder.info.family,
        "seed": seed,
        "probe": "attention",
        "objective": "",
    }
    kept = {name: values for name, values in arrays.items() if name in wanted}
    return Record(
        frame([{**same, **row} for row in rows]), kept, _manifest(encoder, label, seed, len(arrays[computed[0]]), grid)
    )


# --- one forward pass ----------------------------------------------------------------------------------


def _one_batch(encoder: Encoder, raw: Tensor, grid: tuple[int, int], names: list[str]) -> dict[str, np.ndarray]:
    """{metric: (b, blocks, heads) or (b, blocks)} of one batch."""
    prefix, patch = int(encoder.info.prefix_tokens), int(encoder.info.patch_size)
    tokens = prefix + grid[0] * grid[1]
    at_once = _SLICE["cpu" if torch.device(encoder.device).type == "cpu" else "cuda"]
    blocks: list[dict[str, Tensor]] = []

    def on_call(call: AttentionCall) -> None:
        if call.shape[0] != len(raw) or call.shape[-1] != tokens:
            raise _other_grid(encoder, call, len(raw), tokens)
        step = max(1, at_once // (call.shape[1] * tokens**2))
        slices = [
            metrics_from_logits(
                call.logits(slice(first, first + step), slice(prefix, None)),
                grid=grid,
                patch_size=patch,
                prefix_tokens=prefix,
                metrics=names,
            )
            for first in range(0, len(raw), step)
        ]
        blocks.append({name: torch.cat([part[name].float() for part in slices]) for name in names})

    with torch.no_grad(), tap(encoder.module, on_call):
        encoder.tokens(encoder.normalise(raw.to(encoder.device)))
    return {name: torch.stack([block[name] for block in blocks], 1).cpu().numpy() for name in names}


def _other_grid(encoder: Encoder, call: AttentionCall, images: int, tokens: int) -> FdlabError:
    return FdlabError(
        f"The attention probe cannot measure this model ({encoder.info.family}).",
        f"Block {call.block + 1} attends within {call.shape[0] // images} x {call.shape[-1]} tokens an image,"
        f" expected 1 x {tokens}: windows, pooled tokens, or another input size.",
        "Measure a plain vision transformer at its input size; windowed models (Swin) are not supported yet.",
    )


# --- from per-image values to rows -----------------------------------------------------------------------


def _rows(arrays: dict[str, np.ndarray], wanted: set[str], seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in ALL:
        if name in wanted:
            rows += _interval_rows(name, arrays[name], mean_interval(arrays[name], seed))
    for name, over_heads in SPREADS.items():
        if name in wanted:
            distances = arrays["distance"]
            found = interval_of_means(distances, over_heads, seed)
            # A spread is never negative; the jackknife's symmetric interval does not know that.
            found = found._replace(low=np.maximum(found.low, 0.0))
            rows += _interval_rows(name, distances.min(axis=-1), found)
    return rows


def _range(means: np.ndarray) -> np.ndarray:
    """Over heads, the last axis."""
    return np.asarray(means.max(axis=-1) - means.min(axis=-1))


def _deviation(means: np.ndarray) -> np.ndarray:
    """Over heads, n - 1; NaN for a single head."""
    if means.shape[-1] < 2:
        return np.full(means.shape[:-1], np.nan)
    return np.asarray(means.std(axis=-1, ddof=1))


# one value a block, from the image-averaged distances
SPREADS = {"distance_spread": _range, "distance_sd": _deviation}


def _interval_rows(name: str, values: np.ndarray, found: Interval) -> list[dict[str, Any]]:
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
    ]


def _manifest(encoder: Encoder, label: str, seed: int, images: int, grid: tuple[int, int]) -> dict[str, Any]:
    info = encoder.info
    size = info.image_size
    return {
        "probe": "attention",
        "version": VERSION,
        "label": label,
        "weights": info.sha256,
        "source": str(info.source),
        "family": info.family,
        "depth": info.depth,
        "heads": info.heads,
        "grid": list(grid),
        "patch_size": info.patch_size,
        "image_size": size if isinstance(size, int) else list(size),
        "prefix_tokens": info.prefix_tokens,
        "options": list(info.options),
        "assumed": list(info.assumed),
        "uniform_distance_px": uniform_distance(grid, int(info.patch_size)),
        "images": images,
        "seed": seed,
    }


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
