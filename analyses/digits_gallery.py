"""Makes reports/digits again: the demo at three seeds, joined. About 15 minutes on two idle cores.

    python analyses/digits_gallery.py [--minutes 5] [--work runs/digits]
    python analyses/digits_gallery.py --redraw           # only the page, from the table of the last one

Stopped and given again, it continues. Only the page, the figures and the table are committed, no weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fdlab.experiments.demo import demo
from fdlab.experiments.gallery import rewrite_gallery, write_gallery

SEEDS = (0, 1, 2)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--work", type=Path, default=Path("runs/digits"))
    parser.add_argument("--out", type=Path, default=Path("reports/digits"))
    parser.add_argument("--redraw", action="store_true")
    given = parser.parse_args()
    if given.redraw:
        print(rewrite_gallery(given.out))
        raise SystemExit
    folders = [given.work / f"seed-{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        demo(folder, seed=seed, minutes=given.minutes, command=f"fdlab demo --seed {seed} --minutes {given.minutes:g}")
    print(write_gallery(given.out, folders, "make reports"))
