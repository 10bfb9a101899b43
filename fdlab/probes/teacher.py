"""``teacher_r2``: how much of a teacher can be read out of a model, beyond the position mean.

The ridge is fitted on some images and tested on others; ``fdlab.measures.teacher_folds`` is the feature probe's form.

Do not read it without the untrained model's value beside it: at digit size a random start already
explains half to three quarters, and a low distillation loss alone says little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.reading import patch_tokens
from fdlab.measures.losses import BETA, distillation_loss, whiten
from fdlab.measures.ridge import explained, fit_position_ridge
from fdlab.measures.teacher_folds import on_grid
from fdlab.records.intervals import interval_of_means
from fdlab.records.store import Record
from fdlab.records.table import frame

VERSION = 1


def measure_teacher_r2(
    encoder: Encoder, teacher: Encoder, fit: Tensor, held: Tensor, *, label: str, family: str = "", seed: int = 0
) -> Record:
    """The share of the whitened teacher tokens' variance beyond their position mean that a ridge explains.

    ``1 - sum |y - ridge(x)|^2 / sum |y - position mean|^2`` over the held-out images; the ridge from the
    model's patch tokens and the position means come from the other images. The interval resamples the
    held-out images.

    Args:
        encoder, teacher: the model that is read, and the one that is explained, on its grid.
        fit: (M, 3, H, W) raw images for the ridge (the paper-size study takes 400).
        held: (n, 3, H, W) other raw images.

    Returns:
        A record of one row; arrays ``error`` and ``baseline`` (n,), the two sums of each held-out image.
    """
    grid = encoder.info.grid
    target_fit = whiten(on_grid(patch_tokens(teacher, fit), teacher.info.grid, grid))
    target = whiten(on_grid(patch_tokens(teacher, held), teacher.info.grid, grid))
    ridge = fit_position_ridge(patch_tokens(encoder, fit), target_fit)
    error, baseline = explained(ridge, patch_tokens(encoder, held), target)
    pair = torch.stack([error, baseline], 1).numpy()
    share = interval_of_means(pair, lambda means: 1 - means[:, 0] / means[:, 1], seed)
    row = {
        "model": label,
        "family": family,
        "seed": seed,
        "probe": "features",
        "metric": "teacher_r2",
        "value": float(share.value),
        "low": float(share.low),
        "high": float(share.high),
        "n": len(held),
        "objective": f"ridge on {len(fit)} other images",
    }
    manifest = {"probe": "features", "version": VERSION, "label": label, "teacher": teacher.info.sha256}
    return Record(frame([row]), {"error": pair[:, 0], "baseline": pair[:, 1]}, manifest)


def position_mean_loss(teacher: Encoder, fit: Tensor, held: Tensor, beta: float = BETA) -> float:
    """The distillation loss of predicting the teacher's mean whitened token at each position."""
    mean = whiten(patch_tokens(teacher, fit)).mean(0)
    target = whiten(patch_tokens(teacher, held))
    return float(distillation_loss(mean.expand_as(target), target, beta))
