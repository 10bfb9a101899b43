"""The feature probe: what the tokens of every block are like, and how alike blocks and models are.

One forward pass over the images (three with ``alignment``) reads the output of every block. Kept are one
number an image, the mean token of an image, and the Gram matrices of groups of 32 images: memory holds the
tokens of one group at a time. CKA between models follows from the kept Gram matrices alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fdlab.data.transforms import View, apply, draw
from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.reading import patch_tokens
from fdlab.errors import NOT_UNDERSTOOD, OUT_OF_SPACE, USAGE, FdlabError, nearest
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
from fdlab.probes.probe import Probe
from fdlab.randomness import stream
from fdlab.records.metrics import METRICS
from fdlab.records.store import Record
from fdlab.records.table import frame, with_bounds

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

VERSION = 3
FEWEST = 6  # unbiased HSIC needs 4 images, with one left out by the jackknife
TOKENS = 1 << 30  # bytes: of the final tokens of all images, which attentive pooling keeps, and once more to sort them
VIEW = View(crop=(0.67, 1.0), brightness=0.2, contrast=0.2)
ALL = ("cka", *PER_IMAGE, *OF_SET, SPECTRUM, "alignment", *LABELLED)
TAUGHT = "teacher_r2"


class Slices(Protocol):
    """Images or labels of which one slice at a time is read."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Tensor: ...


def measure_features(
    encoder: Encoder,
    images: Tensor | Slices,
    labels: Tensor | Slices | None = None,
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
    if len(images.shape) != 4 or len(images) == 0:
        raise FdlabError(f"Images of shape {tuple(images.shape)} cannot be measured.", "", "Pass (n, 3, H, W).", USAGE)
    wanted = _possible(wanted, images, labels, asked=metrics is not None)
    taught = None if teacher is None else _Taught(teacher, encoder, TeacherFolds(len(images), seed))
    seen = _Seen(encoder, wanted, seed, pooling, taught)
    for start in range(0, len(images), GROUP):
        seen.group(images, None if labels is None else labels, start, batch, progress)
    arrays = seen.arrays()
    if "labels" in arrays and len(np.unique(arrays["labels"])) < 2:  # known only once they were read
        if metrics is not None:
            raise FdlabError("The images are all of one class.", "Nothing can be classified.", "Use other data.", USAGE)
        wanted -= set(LABELLED)
    rows = feature_rows(arrays, wanted, seed, seen.tokens)
    if taught is not None:
        found, arrays["teacher_squares"] = taught.rows(images, batch, progress)
        rows += found
    same = {"model": label, "family": encoder.info.family, "seed": seed, "probe": "features"}
    kept = {name: values for name, values in arrays.items() if name != "pooled"}
    table = frame([{**same, "unit": METRICS[row["metric"]].unit, **row} for row in rows])
    return Record(table, kept, _manifest(encoder, label, seed, len(arrays["pooled"])))


def intervals_anew(record: Record, seed: int) -> Record:
    """The record with the intervals of means and of ``teacher_r2`` made again from its arrays."""
    rows = per_image_rows(record.arrays, seed)
    if "teacher_squares" in record.arrays:
        rows += explained_rows(record.arrays["teacher_squares"], seed)
    return replace(record, table=with_bounds(record.table, rows))


def between(records: Mapping[str, Record], *, seed: int) -> pd.DataFrame:
    """``cka`` between the blocks of every two models on the same images: ``x`` is the block of ``reference``."""
    rows: list[dict[str, Any]] = []
    for first, second in combinations(records, 2):
        one, other = records[first], records[second]
        if "gram" not in one.arrays or "gram" not in other.arrays:
            continue
        if not np.array_equal(one.arrays["gram_sizes"], other.arrays["gram_sizes"]):
            continue  # other images were unreadable for one of them
        same = {"model": first, "reference": second, "family": one.manifest["family"], "seed": seed}
        rows += [{**same, "probe": "features", **row} for row in cka_rows(one.arrays, other.arrays)]
    return frame(rows)


# --- reading ---------------------------------------------------------------------------------------------


class _Seen:
    """What is kept of the images seen so far."""

    def __init__(
        self, encoder: Encoder, wanted: set[str], seed: int, pooling: set[str], taught: _Taught | None
    ) -> None:
        self.encoder, self.wanted, self.seed, self.pooling, self.taught = encoder, wanted, seed, pooling, taught
        self.tokens: list[Tensor] = []
        self.parts: dict[str, list[np.ndarray]] = {}
        self.sizes: list[int] = []

    def group(self, images: Any, labels: Any, start: int, batch: int, progress: Any) -> None:
        """Reads one group of images in forward passes of ``batch``."""
        flat: list[list[Tensor]] = []
        stop = min(start + GROUP, len(images))
        for first in range(start, stop, batch):
            part = slice(first, min(first + batch, stop))
            raw = images[part]
            if not len(raw):  # none of these could be read
                continue
            blocks, final = _outputs(self.encoder, raw)
            flat.append([tokens.flatten(1) for tokens, _ in blocks] if "cka" in self.wanted else [])
            self._keep("pooled", torch.stack([_fit(tokens.mean(1), blocks) for tokens, _ in blocks], 1))
            for name in PER_IMAGE:
                if name in self.wanted:
                    self._keep(name, torch.stack([_per_image(name, *block) for block in blocks], 1))
            if "alignment" in self.wanted:
                self._keep("alignment", self._alignment(raw, first))
            if labels is not None and self.wanted & set(LABELLED):
                self._keep("labels", labels[part])
                self._pool(final, len(images))
            if self.taught is not None:
                self.taught.add(raw, blocks, final)
            if progress is not None:
                progress.advance(len(raw))
        self._grams(flat)

    def _pool(self, final: Tensor, images: int) -> None:
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
        size = sum(len(part[0]) for part in flat if part)
        if size < FEWEST:
            return
        grams = torch.stack([form.gram(torch.cat(block)) for block in zip(*flat, strict=True)])
        room = torch.zeros(1, len(grams), GROUP, GROUP)
        room[0, :, :size, :size] = grams.float().cpu()
        self._keep("gram", room)
        self.sizes.append(size)

    def _alignment(self, raw: Tensor, first: int) -> Tensor:
        size = int(raw.shape[-1])
        pooled = []
        for view in (0, 1):
            drawn = [stream(self.seed, "alignment", first + place, view) for place in range(len(raw))]
            seen = apply(raw.cpu(), VIEW, draw(VIEW, drawn, size), size, direct=True)
            pooled.append([tokens.mean(1) for tokens, _ in _outputs(self.encoder, seen)[0]])
        return torch.stack([form.alignment(a, b) for a, b in zip(*pooled, strict=True)], 1)

    def _keep(self, name: str, values: Tensor) -> None:
        self.parts.setdefault(name, []).append(values.cpu().numpy())

    def arrays(self) -> dict[str, np.ndarray]:
        made = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        return made | ({"gram_sizes": np.array(self.sizes)} if self.sizes else {})


@dataclass
class _Taught:
    """Hands the tokens of a teacher and of the model to what compares them."""

    teacher: Encoder
    encoder: Encoder
    folds: TeacherFolds

    def add(self, raw: Tensor, blocks: list[Block], final: Tensor) -> None:
        tokens, grid = final[:, self.encoder.info.prefix_tokens :], blocks[-1][1]
        own = grid if grid is not None and grid[0] * grid[1] == tokens.shape[1] else None
        self.folds.add((patch_tokens(self.teacher, raw), self.teacher.info.grid), [*blocks, (tokens, own)])

    def rows(self, images: Any, batch: int, progress: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
        """The second pass: what the ridges of the other images explain of every image."""
        if progress is not None:
            progress.total += len(images)
        self.folds.fit()
        for first in range(0, len(images), batch):
            raw = images[first : first + batch]
            if len(raw):
                self.add(raw, *_outputs(self.encoder, raw))
            if progress is not None:
                progress.advance(len(raw))
        info = self.teacher.info
        return self.folds.rows(f"teacher {info.timm_name or info.family} {info.sha256[:8]}")


def _outputs(encoder: Encoder, raw: Tensor) -> tuple[list[Block], Tensor]:
    """Each block's patch tokens (b, N, C) float32 with their grid, and the final tokens."""
    found: list[Block] = []
    patch = encoder.info.patch_size
    grid = (int(raw.shape[-2]) // patch, int(raw.shape[-1]) // patch)
    nhwc = str(getattr(encoder.module, "output_fmt", "")).endswith("NHWC")

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        x = (output[0] if isinstance(output, tuple) else output).detach().float()
        if x.ndim == 4:
            x = x if nhwc else x.permute(0, 2, 3, 1)
            found.append((x.flatten(1, 2), (x.shape[1], x.shape[2])))
        else:
            x = x[:, encoder.info.prefix_tokens :]
            found.append((x, grid if x.shape[1] == grid[0] * grid[1] else None))

    handles = [block.register_forward_hook(keep) for block in blocks_of(encoder.module)]
    try:
        with torch.no_grad():
            final = encoder.tokens(encoder.normalise(raw.to(encoder.device))).float()
    finally:
        for handle in handles:
            handle.remove()
    if len(found) != len(handles):
        raise FdlabError(f"{len(found)} of {len(handles)} blocks were seen.", "Some did not run.", "", NOT_UNDERSTOOD)
    return found, final


def _fit(pooled: Tensor, blocks: list[tuple[Tensor, Any]]) -> Tensor:
    """Padded with zeros to the widest block: hierarchical models widen; zeros change no distance and no rank."""
    widest = max(tokens.shape[-1] for tokens, _ in blocks)
    return torch.nn.functional.pad(pooled, (0, widest - pooled.shape[-1]))


def _per_image(name: str, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
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
        raise FdlabError(f"'{TAUGHT}' needs a teacher.", "", "Give --teacher SOURCE (teacher= in Python).", USAGE)
    wanted.discard(TAUGHT)  # is measured wherever a teacher is given
    for name in sorted(wanted - set(ALL)):
        raise FdlabError(
            f"No feature metric is called '{name}'.{nearest(name, (*ALL, TAUGHT))}",
            "",
            f"Known: {', '.join((*ALL, TAUGHT))}.",
            USAGE,
        )
    return wanted


def _pooling(names: Iterable[str]) -> set[str]:
    asked = {names} if isinstance(names, str) else set(names)
    for name in sorted(asked - set(POOLINGS)):
        raise FdlabError(
            f"No pooling is called '{name}'.{nearest(name, POOLINGS)}", "", f"Known: {', '.join(POOLINGS)}.", USAGE
        )
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


def _manifest(encoder: Encoder, label: str, seed: int, images: int) -> dict[str, Any]:
    info = encoder.info
    return {
        "probe": "features", "version": VERSION, "label": label, "weights": info.sha256, "source": str(info.source),
        "family": info.family, "depth": info.depth, "grid": list(info.grid), "options": list(info.options),
        "assumed": list(info.assumed), "images": images, "seed": seed,
    }  # fmt: skip


PROBE = Probe(
    measure=measure_features,
    version=VERSION,
    settings=("metrics", "pooling", "teacher"),
    models=("teacher",),
    takes=("labels",),
    between=between,
    intervals_anew=intervals_anew,
)
