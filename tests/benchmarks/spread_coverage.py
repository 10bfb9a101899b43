"""How often the interval of a spread over heads holds the true one, on head distances whose truth is known.

``python -m tests.benchmarks.spread_coverage --trials 400`` prints the table of docs/intervals.md. Values of an image
are the true heads, evenly spaced, plus what the image adds to all heads (deviation 2) and to each (deviation 1).
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from fdlab.randomness import stream
from fdlab.records.spread import SPREADS, spread_over_heads

HEADS, APART, SIZES = (2, 4, 12, 16), (0.0, 0.3, 1.0), (8, 32, 256)
SIGMA = 0.5  # of the log-normal distribution of the skewed rows


class Coverage(NamedTuple):
    """The share of samples whose interval holds the truth, and the mean of value - truth."""

    held: float
    bias: float


def true_heads(heads: int, apart: float) -> np.ndarray:
    """(heads,): evenly spaced, with this standard deviation (n - 1)."""
    even = np.linspace(-1.0, 1.0, heads)
    return np.asarray(even / even.std(ddof=1) * apart)


def covered(
    metric: str, heads: int, apart: float, images: int, trials: int, *, skewed: bool = False, seed: int = 0
) -> Coverage:
    """Asked of ``trials`` samples of one block."""
    truth = true_heads(heads, apart)
    wanted, held, bias = float(SPREADS[metric](truth)), 0, 0.0
    for trial in range(trials):
        draw = stream(seed, "spread coverage", heads, images, trial)
        noise = draw.normal(0, 1, (images, heads))
        if skewed:
            noise = np.exp(SIGMA * noise)
            noise /= np.sqrt((np.exp(SIGMA**2) - 1) * np.exp(SIGMA**2))
        values = truth + noise + draw.normal(0, 2, (images, 1))
        found = spread_over_heads(values[:, None], metric, trial)
        held += int(found.low[0] <= wanted + 1e-9 and wanted <= found.high[0] + 1e-9)
        bias += float(found.value[0]) - wanted
    return Coverage(held / trials, bias / trials)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400, help="samples of each case")
    trials = parser.parse_args().trials
    print("| heads | apart | values | " + " | ".join(f"{m}, n = {n}" for m in SPREADS for n in SIZES) + " |")
    print("|---" * (3 + len(SPREADS) * len(SIZES)) + "|")
    for heads in HEADS:
        for apart in APART:
            for skewed in (False, True) if apart == APART[1] else (False,):
                cases = [covered(m, heads, apart, n, trials, skewed=skewed).held for m in SPREADS for n in SIZES]
                kind = "skewed" if skewed else "normal"
                print(f"| {heads} | {apart:g} | {kind} | " + " | ".join(f"{c:.3f}" for c in cases) + " |", flush=True)


if __name__ == "__main__":
    main()
