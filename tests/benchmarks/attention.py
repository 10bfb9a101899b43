"""What reading attention costs beside the bare forward pass: ViT-B/16 with random weights, one thread.

``python -m tests.benchmarks.attention --rounds 5 --images 32 --batch 8`` (the defaults) prints one table; at 448
px a quarter of the images and of the batch. A second table varies the number of images and of blocks. The ways take
turns, so that a busy machine slows all alike; processor seconds, best of the rounds, as ratios to the bare pass of the
same run. The peak is one process's for each way, above what it held before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch

FEW = ("distance", "entropy", "nmi", "head_similarity")
SIZES = (224, 448)
LINEAR = ((1, 12), (2, 12), (4, 12), (1, 3), (1, 6))  # batches of images, and blocks
PEAK = """
import sys
from tests.benchmarks.attention import prepared
from tests.benchmarks.checkpoints import high_water
run = prepared(*map(int, sys.argv[2:]))[sys.argv[1]]
before = high_water()
run()
print(high_water() - before)
"""


def prepared(size: int, batch: int, count: int, depth: int = 12) -> dict:
    """{way: one pass over ``count`` images}."""
    import timm

    from fdlab.encoders.encoder import Encoder
    from fdlab.measures.attention import attention_metrics
    from fdlab.probes.attention import measure_attention

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = timm.create_model("vit_base_patch16_224", num_classes=0, img_size=size, depth=depth).eval()
    encoder = Encoder.wrap(module)
    images = torch.rand(count, 3, size, size)
    grid = encoder.info.grid

    def bare() -> None:
        with torch.no_grad():
            for part in images.split(batch):
                encoder.tokens(encoder.normalise(part))

    def notebook() -> None:
        """All maps of a batch kept, then the numbers."""
        with torch.no_grad():
            for part in images.split(batch):
                maps = encoder.attention(encoder.normalise(part), blocks=range(depth))
                for attention in maps.values():
                    attention_metrics(attention, grid=grid, patch_size=16, prefix_tokens=1, metrics=FEW)

    def four() -> None:
        measure_attention(encoder, images, label="x", batch=batch, metrics=FEW)

    def everything() -> None:
        measure_attention(encoder, images, label="x", batch=batch)

    return {"bare": bare, "four metrics": four, "all metrics": everything, "notebook": notebook}


def seconds(
    size: int, batch: int, count: int, rounds: int, depth: int = 12, names: tuple[str, ...] = ()
) -> dict[str, float]:
    """Best processor seconds of every way (or those named), taken in turns."""
    ways = prepared(size, batch, count, depth)
    ways = {name: ways[name] for name in names or ways}
    ways["bare"]()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, run in ways.items():
            before = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - before)
    return best


def peak(way: str, size: int, batch: int, count: int, depth: int = 12) -> int:
    """Bytes that one pass adds to a fresh process's peak."""
    command = [sys.executable, "-c", PEAK, way, *map(str, (size, batch, count, depth))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="passes of each way; the best one counts")
    parser.add_argument("--images", type=int, default=32, help="images of one pass at 224 px")
    parser.add_argument("--batch", type=int, default=8, help="images of one forward pass at 224 px")
    asked = parser.parse_args()
    print(f"best of {asked.rounds}, one thread, {asked.images} images at 224 px, batch {asked.batch}", flush=True)
    by_size(asked)
    by_amount(asked)


def by_size(asked: argparse.Namespace) -> None:
    """The first table."""
    print("size  way            CPU s/image  ratio  peak MiB  ratio", flush=True)
    for size in SIZES:
        share = 1 if size == 224 else 4
        batch, images = max(1, asked.batch // share), max(1, asked.images // share)
        best = seconds(size, batch, images, asked.rounds)
        memory = {way: peak(way, size, batch, images) for way in best}
        for way in best:
            print(
                f"{size:<5} {way:<14} {best[way] / images:11.3f} {best[way] / best['bare']:6.2f}"
                f" {memory[way] / 2**20:9.0f} {memory[way] / memory['bare']:6.2f}",
                flush=True,
            )


def by_amount(asked: argparse.Namespace) -> None:
    """The second table: what reading everything adds to each image and block, at 224 px."""
    print("images  blocks  bare CPU s  all metrics CPU s  added ms/(image block)  peak MiB", flush=True)
    way = "all metrics"
    for batches, blocks in LINEAR:
        images = batches * asked.batch
        best = seconds(224, asked.batch, images, min(asked.rounds, 3), blocks, ("bare", way))
        added = 1000 * (best[way] - best["bare"]) / (images * blocks)
        memory = peak(way, 224, asked.batch, images, blocks) / 2**20
        print(f"{images:6} {blocks:7} {best['bare']:11.2f} {best[way]:18.2f} {added:23.2f} {memory:9.0f}", flush=True)


if __name__ == "__main__":
    main()
