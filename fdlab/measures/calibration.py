"""How far the shares that a classifier gives are from how often it is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fdlab.randomness import stream
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import mean_interval

BINS = 10
DRAWS = 1000


class Calibration(NamedTuple):
    """``error``: the expected calibration error; its ends are those that a calibrated classifier would show.

    ``chance`` is the mean of these, ``gap`` the mean share of the named class minus the share of right answers, with
    its interval over images.
    """

    error: float
    chance: Estimate
    gap: Estimate


def calibration(shares: np.ndarray, right: np.ndarray, seed: int = 0) -> Calibration:
    """How well the shares of the named classes foretell right answers.

    The expected calibration error is the mean over ``BINS`` bins of equally many images of ``|mean share - part that
    is right|`` (Naeini et al. 2015, with equal counts after Nguyen & O'Connor 2015). It is above 0 also for a
    calibrated classifier, the more so the fewer images there are; so it is shown beside what one would show whose
    answers are right as often as its shares say: ``DRAWS`` draws of right and wrong from the shares.

    Args:
        shares: (n,) softmax of the named class of each image. right: (n,) whether it is the right one.
        seed: of the draws.
    """
    shares, right = np.asarray(shares, dtype=np.float64), np.asarray(right, dtype=np.float64)
    order = np.argsort(shares, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    draws = stream(seed, "calibration").random((DRAWS, len(shares))) < shares
    simulated = _error(shares, draws.astype(np.float64), parts)
    low, high = np.quantile(simulated, (0.025, 0.975))
    return Calibration(
        float(_error(shares, right[None], parts)[0]),
        Estimate(float(simulated.mean()), float(low), float(high), len(shares)),
        mean_interval(shares - right, seed),
    )


def _error(shares: np.ndarray, right: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """(R,) errors of R answers ``right`` (R, n)."""
    n = len(shares)
    gaps = [len(part) / n * np.abs(right[:, part].mean(1) - shares[part].mean()) for part in parts]
    return np.sum(gaps, axis=0)
