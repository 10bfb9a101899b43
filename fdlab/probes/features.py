"""The feature probe: what the tokens of every block are like, and how alike blocks and models are.

One forward pass over the images (three with ``alignment``) reads the output of every block. Kept are one
number an image, the mean token of an image, and the Gram matrices of groups of 32 images: memory holds the
tokens of one group at a time. CKA between models follows from the kept Gram matrices alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fdlab.data.transforms import View, apply, draw
from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.reading import SlicedImages, patch_tokens
from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, USAGE, FdlabError
from fdlab.measures import features as form
from fdlab.measures.feature_rows import (
    FOLDS,
    GROUP,
    LABELLED,
    OF_SET,
    PER_IMAGE,
    POOLINGS,
    SPECTRUM,
    cka_rows,
    feature_rows,
    per_image_rows,
)
from fdlab.measures.teacher_folds import Block, TeacherFolds, explained_rows
from fdlab.probes.probe import Probe, batches_of, check_images, check_name, manifest_of, untouched
from fdlab.randomness import stream
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 4
FEWEST = 6  # unbiased HSIC needs 4 images, with one left out by the jackknife
TOKENS = 1 << 30  # bytes: of the final tokens of all images, which attentive pooling keeps, and once more to sort them
VIEW = View(crop=(0.67, 1.0), brightness=0.2, contrast=0.2)
ALL = ("cka", *PER_IMAGE, *OF_SET, SPECTRUM, "alignment", *LABELLED)
TAUGHT = "teacher_r2"


@untouched
def measure_features(
    encoder: Encoder,
    images: Tensor | SlicedImages,
    labels: Tensor | SlicedImages | None = None,
    *,
    label: str,
    seed: int = 0,
    batch: int = 32,
    progress: Any = None,
    metrics: Iterable[str] | None = None,
    pooling: Iterable[str] = ("patches", "class"),
    teacher: Encoder | None = None,
) -> Record:
    """Statistics of the output of every block (patch tokens only, before the final norm).

    Do not read effective rank, uniformity or CKA across different images or image counts: they depend on
    both. Do not read any of them as quality: an untrained model can have a high rank too.

    Args:
        encoder: any model with a list of blocks; of hierarchical models each block has its own grid.
        images: (n, 3, H, W) float32 in [0, 1] at the model's input size, or what gives slices of it.
        labels: (n,) classes from 0 for ``knn`` and ``linear_probe``, or what gives the same slices.
        seed: of views, folds and the bootstrap.
        batch: images in one forward pass: memory, not the result.
        metrics: names to compute; by default all that images and labels allow.
        pooling: of the final tokens for ``knn`` and ``linear_probe``: ``patches`` (their mean), ``class``, and on
            request ``attentive`` (``linear_probe`` only): one learnt query. It takes some seconds for 1,000 images
            of 64 tokens and keeps the patch tokens of all images, at most ``TOKENS`` bytes of them.
        teacher: adds ``teacher_r2``, by block and for the final tokens (without a block): what of this model's
            whitened patch tokens a ridge explains on images that it was not fitted on. A second pass over the images.

    Returns:
        A record. Rows a block; ``cka`` has the other block in ``x`` (pairs once); ``knn`` and
        ``linear_probe`` one a pooling. Arrays: per-image values (n, blocks), ``gram`` (groups, blocks, 32, 32)
        with ``gram_sizes`` (groups,).

    Raises:
        FdlabError: an unknown metric, no image, and, where asked for by name: no labels or one class, a view
            of images that are not square, too few images, an unknown pooling, more tokens to keep than ``TOKENS``.
    """
    wanted, pooling = _wanted(metrics, teacher is not None), _pooling(pooling)
    check_images(images)
    wanted = _possible(wanted, images, labels, asked=metrics is not None)
    pair = None if teacher is None else _Pair(teacher, encoder, TeacherFolds(len(images), seed))
    outputs = _BlockOutputs(encoder, wanted, seed, pooling, pair)
    for first in range(0, len(images), GROUP):
        outputs.add_group(images, labels, first, batch, progress)
    arrays = outputs.arrays()
    if "labels" in arrays and len(np.unique(arrays["labels"])) < 2:  # known only once they were read
        if metrics is not None:
            raise FdlabError("The images are all of one class.", "Nothing can be classified.", "Use other data.", USAGE)
        wanted -= set(LABELLED)
    rows = feature_rows(arrays, wanted, seed, outputs.tokens)
    if pair is not None:
        explained, arrays["teacher_squares"] = pair.rows(images, batch, progress)
        rows += explained
    columns = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "features"}
    table = frame([{**columns, "unit": METRICS[row["metric"]].unit, **row} for row in rows])
    count = len(arrays.pop("pooled"))
    return Record(table, arrays, manifest_of("features", VERSION, encoder, label, seed, count))


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals of means and of ``teacher_r2`` made again from its arrays."""
    rows = per_image_rows(record.arrays, seed)
    if "teacher_squares" in record.arrays:
        rows += explained_rows(record.arrays["teacher_squares"], seed)
    return replace(record, table=with_bounds(record.table, rows))


def between(records: Mapping[str, Record], *, seed: int) -> pd.DataFrame:
    """``cka`` between the blocks of every two models on the same images: ``x`` is the block of ``reference``."""
    rows: list[dict[str, Any]] = []
    for (name, record), (other_name, other) in combinations(records.items(), 2):
        if "gram" not in record.arrays or "gram" not in other.arrays:
            continue
        if not np.array_equal(record.arrays["gram_sizes"], other.arrays["gram_sizes"]):
            continue  # other images were unreadable for one of them
        columns = {"model": name, "reference": other_name, "family": record.manifest["family"], "seed": seed}
        rows += [{**columns, "probe": "features", **row} for row in cka_rows(record.arrays, other.arrays)]
    return frame(rows)


# --- reading ---------------------------------------------------------------------------------------------


@dataclass
class _BlockOutputs:
    """What is kept of the blocks' outputs for the images so far."""

    encoder: Encoder
    wanted: set[str]
    seed: int
    pooling: set[str]
    pair: _Pair | None
    tokens: list[Tensor] = field(default_factory=list)
    parts: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def add_group(self, images: Any, labels: Any, first: int, batch: int, progress: Any) -> None:
        """Reads one group of images in forward passes of ``batch``."""
        flat: list[list[Tensor]] = []
        stop = min(first + GROUP, len(images))
        for start, raw in batches_of(images, batch, progress, first, stop):
            blocks, final = _outputs(self.encoder, raw)
            flat.append([tokens.flatten(1) for tokens, _ in blocks] if "cka" in self.wanted else [])
            self._keep("pooled", torch.stack([_fit(tokens.mean(1), blocks) for tokens, _ in blocks], 1))
            for name in PER_IMAGE:
                if name in self.wanted:
                    self._keep(name, torch.stack([_per_image(name, *block) for block in blocks], 1))
            if "alignment" in self.wanted:
                self._keep("alignment", self._alignment(raw, start))
            if labels is not None and self.wanted & set(LABELLED):
                self._keep("labels", labels[start : min(start + batch, stop)])
                self._pool(final, len(images))
            if self.pair is not None:
                self.pair.add(raw, blocks, final)
        self._grams(flat)

    def _pool(self, final: Tensor, images: int) -> None:
        """Keeps the pooled final tokens, one entry a pooling."""
        patches = final[:, self.encoder.info.prefix_tokens :]
        if "patches" in self.pooling:
            self._keep("patch mean", patches.mean(1))
        if "class" in self.pooling and "cls" in self.encoder.info.prefix_kinds:
            self._keep("class token", final[:, 0])
        if "attentive" in self.pooling and "linear_probe" in self.wanted:
            each = patches[0].numel() * 4
            if each * images > TOKENS:
                raise FdlabError(
                    f"Attentive pooling of {images} images would keep {each * images / 2**30:.1f} GiB of tokens.",
                    f"It reads them many times; the bound is {TOKENS / 2**30:.0f} GiB.",
                    f"Ask for at most {TOKENS // each} images, or leave attentive pooling out.",
                    OUT_OF_SPACE,
                )
            self.tokens.append(patches.cpu().contiguous())

    def _grams(self, flat: list[list[Tensor]]) -> None:
        """Keeps the group's Gram matrices, filled up with zeros to ``GROUP`` images."""
        size = sum(len(part[0]) for part in flat if part)
        if size < FEWEST:
            return
        grams = torch.stack([form.gram(torch.cat(block)) for block in zip(*flat, strict=True)])
        room = torch.zeros(1, len(grams), GROUP, GROUP)
        room[0, :, :size, :size] = grams.float().cpu()
        self._keep("gram", room)
        self.sizes.append(size)

    def _alignment(self, raw: Tensor, first: int) -> Tensor:
        """(b, blocks): the distance between the mean tokens of two views of each image."""
        size = int(raw.shape[-1])
        pooled = []
        for view in (0, 1):
            streams = [stream(self.seed, "alignment", first + number, view) for number in range(len(raw))]
            views = apply(raw.cpu(), VIEW, draw(VIEW, streams, size), size, direct=True)
            pooled.append([tokens.mean(1) for tokens, _ in _outputs(self.encoder, views)[0]])
        return torch.stack([form.alignment(a, b) for a, b in zip(*pooled, strict=True)], 1)

    def _keep(self, name: str, values: Tensor) -> None:
        self.parts.setdefault(name, []).append(values.cpu().numpy())

    def arrays(self) -> dict[str, np.ndarray]:
        """name -> (n, ...) of all images; ``gram`` and ``gram_sizes`` by group."""
        arrays = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        return arrays | ({"gram_sizes": np.array(self.sizes)} if self.sizes else {})


@dataclass
class _Pair:
    """Hands the tokens of a teacher and of the model to what compares them."""

    teacher: Encoder
    encoder: Encoder
    folds: TeacherFolds

    def add(self, raw: Tensor, blocks: list[Block], final: Tensor) -> None:
        tokens, grid = final[:, self.encoder.info.prefix_tokens :], blocks[-1][1]
        final_grid = grid if grid is not None and grid[0] * grid[1] == tokens.shape[1] else None
        self.folds.add((patch_tokens(self.teacher, raw), self.teacher.info.grid), [*blocks, (tokens, final_grid)])

    def rows(self, images: Any, batch: int, progress: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
        """The second pass: what the ridges of the other images explain of every image."""
        if progress is not None:
            progress.total += len(images)
        self.folds.fit()
        for _, raw in batches_of(images, batch, progress):
            self.add(raw, *_outputs(self.encoder, raw))
        info = self.teacher.info
        return self.folds.rows(f"teacher {info.timm_name or info.family} {info.sha256[:8]}")


def _outputs(encoder: Encoder, raw: Tensor) -> tuple[list[Block], Tensor]:
    """Each block's patch tokens (b, N, C) float32 with their grid, and the final tokens."""
    outputs: list[Block] = []
    patch = encoder.info.patch_size
    grid = (int(raw.shape[-2]) // patch, int(raw.shape[-1]) // patch)
    nhwc = str(getattr(encoder.module, "output_fmt", "")).endswith("NHWC") or encoder.anatomy.order == "BHWC"
    anatomy = encoder.anatomy

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        x = (output[0] if isinstance(output, tuple) else output).detach().float()
        if x.ndim == 4:
            x = x if nhwc else x.permute(0, 2, 3, 1)
            outputs.append((x.flatten(1, 2), (x.shape[1], x.shape[2])))
        else:
            x = anatomy.in_order(x, encoder.module)[:, encoder.info.prefix_tokens :]
            outputs.append((x, grid if x.shape[1] == grid[0] * grid[1] else None))

    handles = [block.register_forward_hook(keep) for block in blocks_of(encoder.module)]
    try:
        with torch.no_grad():
            final = encoder.tokens(encoder.normalise(raw.to(encoder.device))).float()
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) != len(handles):
        what = f"{len(outputs)} of {len(handles)} blocks were seen."
        raise FdlabError(what, "Some did not run.", code=NOT_UNDERSTOOD)
    return outputs, final


def _fit(pooled: Tensor, blocks: list[tuple[Tensor, Any]]) -> Tensor:
    """Padded with zeros to the widest block: hierarchical models widen; zeros change no distance and no rank."""
    widest = max(tokens.shape[-1] for tokens, _ in blocks)
    return torch.nn.functional.pad(pooled, (0, widest - pooled.shape[-1]))


def _per_image(name: str, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(b,) of (b, N, C) tokens; NaN where the measure needs a grid and the tokens have none."""
    if name == "token_similarity":
        return form.token_similarity(tokens)
    if name == "token_variance":
        return form.token_variance(tokens)
    if grid is None:
        return torch.full((len(tokens),), float("nan"))
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    return form.high_frequency(maps, "nyquist" if name == "high_frequency" else "published")


# --- what can be asked -----------------------------------------------------------------------------------


def _wanted(metrics: Iterable[str] | None, teacher: bool) -> set[str]:
    wanted = set(ALL if metrics is None else metrics)
    if TAUGHT in wanted and not teacher:
        raise FdlabError(f"'{TAUGHT}' needs a teacher.", fix="Give --teacher SOURCE (teacher= in Python).", code=USAGE)
    wanted.discard(TAUGHT)  # is measured wherever a teacher is given
    for name in sorted(wanted):
        check_name("No feature metric is called", name, (*ALL, TAUGHT))
    return wanted


def _pooling(names: Iterable[str]) -> set[str]:
    asked = {names} if isinstance(names, str) else set(names)
    for name in sorted(asked):
        check_name("No pooling is called", name, POOLINGS)
    return asked


def _possible(wanted: set[str], images: Any, labels: Any, asked: bool) -> set[str]:
    """Without what these images cannot give; an error where it was asked for by name."""
    reasons: dict[str, str] = {}
    if labels is None or len(labels) < 2 * FOLDS:
        why = "The images have no labels." if labels is None else f"At least {2 * FOLDS} images are needed."
        reasons |= dict.fromkeys(LABELLED, why)
    if images.shape[-1] != images.shape[-2]:
        reasons["alignment"] = "Views are drawn for square inputs only."
    if len(images) < FEWEST:
        reasons["cka"] = f"At least {FEWEST} images are needed."
    if len(images) < 3:
        reasons |= dict.fromkeys((*OF_SET, SPECTRUM), "At least 3 images are needed.")
    for name in ALL if asked else ():
        if name in wanted and name in reasons:
            raise FdlabError(
                f"'{name}' cannot be measured here.", reasons[name], "Leave it out, or use other data.", USAGE
            )
    return wanted - set(reasons)


PROBE = Probe(
    measure=measure_features,
    version=VERSION,
    known_answers="features",
    settings=("metrics", "pooling", "teacher"),
    models=("teacher",),
    takes=("labels",),
    between=between,
    intervals_anew=intervals_anew,
)
