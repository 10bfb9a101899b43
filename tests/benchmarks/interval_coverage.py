"""How often 95 % intervals hold the truth, on simulated values whose mean is known.

``python -m tests.benchmarks.interval_coverage --trials 10000`` prints the table of docs/intervals.md. A paired
difference is of two models on the same images, 1.1 x + e and x + e', where x, and e / 0.3, have the named
distribution.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from fdlab.randomness import stream
from fdlab.records.intervals import BOOTSTRAP_FROM, mean_interval, paired_difference_interval

SIZES = (3, 8, 32, 256)
SIGMA = {"normal": 0.0, "log-normal, sigma 0.5": 0.5, "log-normal, sigma 1": 1.0}
AT_ONCE = 500


def covered(kind: str, paired: bool, n: int, trials: int, seed: int = 0) -> float:
    """The share of ``trials`` samples of ``n`` whose interval holds the true mean."""
    held = 0
    for start in range(0, trials, AT_ONCE):
        draw, count = stream(seed, "coverage", start), min(AT_ONCE, trials - start)

        def values(draw: np.random.Generator = draw, count: int = count) -> np.ndarray:
            sigma = SIGMA[kind]
            return draw.lognormal(0.0, sigma, (n, count)) if sigma else draw.normal(1.0, 1.0, (n, count))

        mean = math.exp(SIGMA[kind] ** 2 / 2)
        if paired:
            shared = values()
            found = paired_difference_interval(1.1 * shared + 0.3 * values(), shared + 0.3 * values(), start)
            mean *= 0.1
        else:
            found = mean_interval(values(), start)
        held += int(((found.low <= mean) & (mean <= found.high)).sum())
    return held / trials


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="samples of each size")
    trials = parser.parse_args().trials
    print("| values | " + " | ".join(f"n = {n} ({'t' if n < BOOTSTRAP_FROM else 'bootstrap'})" for n in SIZES) + " |")
    print("|---" * (len(SIZES) + 1) + "|")
    for paired in (False, True):
        for kind in SIGMA:
            shares = [f"{covered(kind, paired, n, trials):.3f}" for n in SIZES]
            print(f"| {'paired difference, ' if paired else ''}{kind} | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
