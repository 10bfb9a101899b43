"""``teacher_r2``: how much of a teacher can be read out of a model, beyond the position mean.

``measure_teacher_r2`` fits on some images and tests on others; ``TeacherFolds`` is the feature probe's form, block by
block and cross-validated on one set of images, with a searched penalty.

Do not read it without the untrained model's value beside it: at digit size a random start already
explains half to three quarters, and a low distillation loss alone says little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.encoders.encoder import Encoder
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.losses import distillation_loss, whiten
from fdlab.measures.ridge import FoldedRidge, PositionRidge, explained, fit_position_ridge
from fdlab.randomness import stream
from fdlab.records.intervals import interval_of_means, resampled_means
from fdlab.records.store import Record
from fdlab.records.table import frame

VERSION = 1
FOLDS = 4
FEWEST = 16  # images, so that the ridge that a strength is judged by has 8
Block = tuple[Tensor, tuple[int, int] | None]  # patch tokens (b, N, C) and their grid, where they have one


def patch_tokens(encoder: Encoder, images: Tensor, batch: int = 128) -> Tensor:
    """(B, N, C) patch tokens after the final norm, for raw images in [0, 1]; each model at its own size."""
    side = encoder.info.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    parts = []
    with torch.no_grad():
        for part in images.split(batch):
            if part.shape[-2:] != torch.Size(size):
                part = F.interpolate(part, size=size, mode="bilinear", antialias=True)
            tokens = encoder.tokens(encoder.normalise(part.to(encoder.device)))
            parts.append(tokens[:, encoder.info.prefix_tokens :].float().cpu())
    return torch.cat(parts)


def _on_grid(tokens: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    if tuple(old) == tuple(new):
        return tokens
    as_map = tokens.transpose(1, 2).unflatten(2, old)
    return F.interpolate(as_map, size=new, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


def measure_teacher_r2(
    encoder: Encoder, teacher: Encoder, fit: Tensor, held: Tensor, *, label: str, family: str = "", seed: int = 0
) -> Record:
    """The share of the whitened teacher tokens' variance beyond their position mean that a ridge explains.

    ``1 - sum |y - ridge(x)|^2 / sum |y - position mean|^2`` over the held-out images; the ridge from the
    model's patch tokens and the position means come from the other images. The interval resamples the
    held-out images.

    Args:
        fit: (M, 3, H, W) raw images for the ridge (the paper-size study takes 400).
        held: (n, 3, H, W) other raw images.
    """
    grid = encoder.info.grid
    target_fit = whiten(_on_grid(patch_tokens(teacher, fit), teacher.info.grid, grid))
    target = whiten(_on_grid(patch_tokens(teacher, held), teacher.info.grid, grid))
    ridge = fit_position_ridge(patch_tokens(encoder, fit), target_fit)
    error, baseline = explained(ridge, patch_tokens(encoder, held), target)
    pair = torch.stack([error, baseline], 1).numpy()
    means = resampled_means(pair, seed)
    resampled = 1 - means[:, 0] / means[:, 1]
    resampled.sort()
    count = len(resampled)
    row = {
        "model": label,
        "family": family,
        "seed": seed,
        "probe": "features",
        "metric": "teacher_r2",
        "value": float(1 - pair[:, 0].mean() / pair[:, 1].mean()),
        "low": float(resampled[int(0.025 * count)]),
        "high": float(resampled[min(int(0.975 * count), count - 1)]),
        "n": len(held),
        "objective": f"ridge on {len(fit)} other images",
    }
    manifest = {"probe": "features", "version": VERSION, "label": label, "teacher": teacher.info.sha256}
    return Record(frame([row]), {"error": pair[:, 0], "baseline": pair[:, 1]}, manifest)


def position_mean_loss(teacher: Encoder, fit: Tensor, held: Tensor, beta: float = 2.0) -> float:
    """The distillation loss of predicting the teacher's mean whitened token at each position."""
    mean = whiten(patch_tokens(teacher, fit)).mean(0)
    target = whiten(patch_tokens(teacher, held))
    return float(distillation_loss(mean.expand_as(target), target, beta))


class TeacherFolds:
    """Cross-validated ``teacher_r2`` of every block and of the final tokens, in two passes over the same images.

    ``add`` every batch, ``fit``, and ``add`` every batch again in the same order. Kept are sums (``FoldedRidge``: for
    ViT-B on a ViT-B some 0.5 GB) and two numbers an image and block. The teacher sees the model's images, resized to
    its own input; its whitened tokens are resized to each block's grid. Blocks without a grid are left out.
    """

    def __init__(self, teacher: Encoder, images: int, seed: int) -> None:
        _enough(images)
        self.teacher, self.seed = teacher, seed
        self._folds = stream(seed, "teacher folds", images).permutation(images) % FOLDS
        self._seen = 0
        self._sums: dict[int, FoldedRidge] = {}
        self._ridges: dict[int, list[PositionRidge]] = {}
        self._squares: list[np.ndarray] = []

    def add(self, raw: Tensor, blocks: list[Block], final: Block) -> None:
        """A batch: raw images (b, 3, H, W), what left each block, and the tokens after the final norm."""
        folds = self._folds[self._seen : self._seen + len(raw)]
        self._seen += len(raw)
        tokens, targets = patch_tokens(self.teacher, raw), dict[tuple[int, int], Tensor]()
        squares = np.full((len(raw), len(blocks) + 1, 2), np.nan)
        for place, (source, grid) in enumerate((*blocks, final)):
            if grid is None:
                continue
            if grid not in targets:
                targets[grid] = whiten(_on_grid(tokens, self.teacher.info.grid, grid))
            if not self._ridges:
                self._sums.setdefault(place, FoldedRidge(FOLDS)).add(source.cpu(), targets[grid], folds)
                continue
            for fold in np.unique(folds):
                own = folds == fold
                pair = explained(self._ridges[place][fold], source.cpu()[own], targets[grid][own])
                squares[own, place] = torch.stack(pair, 1).numpy()
        if self._ridges:
            self._squares.append(squares)

    def fit(self) -> None:
        """The ridges, after all images were added once."""
        _enough(self._seen)
        self._ridges = {place: sums.fit() for place, sums in self._sums.items()}
        self._sums, self._seen = {}, 0

    def rows(self) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Rows of the table, and (n, blocks + 1, 2): squared error and squared distance to the position mean."""
        squares = np.concatenate(self._squares)
        found = interval_of_means(squares, lambda means: 1 - means[..., 0] / means[..., 1], self.seed)
        info, depth = self.teacher.info, squares.shape[1] - 1
        said = f"teacher {info.timm_name or info.family} {info.sha256[:8]}, ridge, {FOLDS} folds"
        rows = []
        for place in sorted(self._ridges):
            where = {} if place == depth else {"block": place, "depth": (place + 1) / depth}
            row = {"metric": "teacher_r2", **where, "value": float(found.value[place]), "low": float(found.low[place])}
            row |= {"high": float(found.high[place]), "n": len(squares)}
            rows.append(row | {"objective": f"{said}, {'final tokens' if place == depth else 'block output'}"})
        return rows, squares


def _enough(images: int) -> None:
    if images < FEWEST:
        raise FdlabError(f"teacher_r2 needs at least {FEWEST} images.", f"There are {images}.", "Give more.", USAGE)
