"""Per-image values over the late blocks of a model: relative depth (block + 1) / blocks above one half."""

from __future__ import annotations

import numpy as np


def last_half(values: np.ndarray) -> np.ndarray:
    """(..., blocks) -> the late blocks."""
    return values[..., values.shape[-1] // 2 :]


def late(values: np.ndarray) -> np.ndarray:
    """(n, blocks[, heads]) -> (n,): the mean over late blocks and all heads; undefined values are left out."""
    return known_mean(values[:, values.shape[1] // 2 :].reshape(len(values), -1))


def known_mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, undefined values left out; NaN where all are."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
