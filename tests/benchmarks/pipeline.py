"""``python -m tests.benchmarks.pipeline``: images a second of the input pipeline on one core, ours and the official.

From the bytes of 500 x 400 JPEGs to a batch of 224 px. Official: Pillow, torchvision's RandomResizedCrop and flip on
Pillow images, ToTensor, Normalize: float32. Ours: ``fdlab.data``, 8 bits (floats and constants follow on the training
device), with Pillow and, where it is installed, with torchcodec. One process, interleaved; the second table is the same
through one loader process, which has to hand the batches over.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from fdlab.data import decode as decoding
from fdlab.data.loader import Batches
from fdlab.data.sources import open_data
from fdlab.data.transforms import PAPER_FD

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224


def photograph(seed: int) -> bytes:
    """A 500 x 400 JPEG of quality 90 whose spectrum falls as 1/f, as photographs' do: about 130 kB."""
    noise = np.random.default_rng(seed).standard_normal((400, 500, 3))
    ky, kx = np.fft.fftfreq(400)[:, None, None], np.fft.rfftfreq(500)[None, :, None]
    spectrum = np.fft.rfft2(noise, axes=(0, 1)) / np.maximum(np.hypot(ky, kx), 1 / 500)
    image = np.fft.irfft2(spectrum, s=(400, 500), axes=(0, 1))
    pixels = (128 + 50 * (image - image.mean()) / image.std()).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


class Official(Dataset):
    """Pillow images -> normalised float32, image by image."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.transform = v1.Compose(
            [
                v1.RandomResizedCrop(SIZE, scale=(0.67, 1.0), interpolation=v1.InterpolationMode.BILINEAR),
                v1.RandomHorizontalFlip(),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self.paths[index].open("rb") as file:
            return self.transform(Image.open(file).convert("RGB"))


def ways(folder: Path, batch: int, workers: int) -> dict[str, Callable[[], Iterable[object]]]:
    """{name: a fresh pass over the images}."""
    official, source = Official(sorted(folder.glob("*.jpg"))), open_data(str(folder))
    count = len(official)
    fast = decoding._jpeg_decoder()

    def ours(decoder: Callable[[bytes], Tensor] | None) -> Callable[[], Iterable[object]]:
        def start() -> Iterable[object]:
            decoding._jpeg_decoder = lambda: decoder
            made = Batches(source, size=SIZE, batch=batch, seed=0, view=PAPER_FD, stop=count // batch, workers=workers)
            made.finished = lambda prepared: prepared  # what follows is the training device's work
            return made

        return start

    found = {
        "official": lambda: DataLoader(official, batch, shuffle=True, num_workers=workers),
        "ours, Pillow": ours(None),
    }
    return {**found, "ours, torchcodec": ours(fast)} if fast else found


def compare(passes: dict[str, Callable[[], Iterable[object]]], count: int, rounds: int) -> None:
    """Prints images a second (best round) and the ratios of the same rounds."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for turn in range(rounds + 1):
        for name, start in passes.items():
            before = time.perf_counter()
            for _ in start():
                pass
            if turn:  # the first round warms up
                times[name].append(time.perf_counter() - before)
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(times["official"], taken, strict=True)]
        best = min(times["official"]) / min(taken)
        print(
            f"{name:17} {count / min(taken):8.1f} images/s   best rounds {best:.2f}x, "
            f"median of rounds {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    own = parser.parse_args()
    measure(own.images, own.batch, own.rounds)


def measure(images: int, batch: int, rounds: int) -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        for number in range(images):
            (Path(name) / f"{number:04}.jpg").write_bytes(photograph(number))
        for workers, title in ((0, "one core, no loader process"), (1, "one loader process")):
            print(f"{images} JPEGs, {title}:")
            compare(ways(Path(name), batch, workers), images // batch * batch, rounds)
    if decoding.find_spec("torchcodec") is None:
        print("torchcodec: not measured (pip install 'fdlab[decode]', then the same command)")


if __name__ == "__main__":
    main()
