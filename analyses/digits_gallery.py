"""Makes reports/digits again: the demo at three seeds, joined. About 15 minutes on two idle cores.

    python analyses/digits_gallery.py [--minutes 5] [--work runs/digits]

Stopped and given again, it continues. Only the page, the figures and the table are committed, no weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fdlab.experiments.demo import demo
from fdlab.experiments.gallery import write_gallery

SEEDS = (0, 1, 2)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--work", type=Path, default=Path("runs/digits"))
    parser.add_argument("--out", type=Path, default=Path("reports/digits"))
    given = parser.parse_args()
    folders = [given.work / f"seed-{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        demo(folder, seed=seed, minutes=given.minutes, command=f"fdlab demo --seed {seed} --minutes {given.minutes:g}")
    print(write_gallery(given.out, folders, "make reports"))
