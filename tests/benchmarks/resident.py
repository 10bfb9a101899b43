"""``python -m tests.benchmarks.resident``: a small model on small data, fed by the device itself and by the loader.

The engine's own step (``one_step``: views, teacher, student, clip, AdamW) on 32 px images of random bytes, ViT-Ti/4
from a teacher of its size. Printed: images a second, the share of time that waited for data, what 100 epochs of
CIFAR-10's 50,000 images would take at that pace; on a GPU also kernel time / wall over 50 profiled steps. On a GPU:
``python -m tests.benchmarks.resident --device cuda --batch 1024 --precision bf16 --compile --workers 8``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.checkpoints.save import save_encoder
from fdlab.data.images import Images, ImageSource
from fdlab.data.loader import Batch, Batches
from fdlab.data.resident import Resident
from fdlab.data.transforms import PAPER_FD
from fdlab.encoders.student import Design, build
from fdlab.engine.hardware import peak
from fdlab.engine.shares import share_drop_path
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan
from fdlab.tasks.distill import Distill

SAVED: dict[str, Any] = {"family": "random", "seed": 1}
SIZE, PATCH, WIDTH, HEADS = 32, 4, 192, 3


class Noise(Images):
    """Random bytes in CIFAR-10's shape."""

    name, native_size, digest = "noise", (SIZE, SIZE), "0"

    def __init__(self, count: int) -> None:
        super().__init__()
        drawn = np.random.default_rng(0).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)
        self.pixels = torch.from_numpy(drawn)

    def __len__(self) -> int:
        return len(self.pixels)

    def read_many(self, indices: np.ndarray) -> Tensor:
        return self.pixels[torch.from_numpy(indices)]

    def labels(self, indices: object) -> np.ndarray:
        return np.zeros(len(indices), dtype=np.int64)  # type: ignore[arg-type]


class Run:
    """A distillation that can be stepped."""

    def __init__(self, own: argparse.Namespace, folder: Path) -> None:
        design = Design(SIZE, PATCH, WIDTH, own.depth, HEADS, position="learned", class_token=True)
        teacher = folder / "teacher.safetensors"
        save_encoder(teacher, build(design, seed=1), design=design, mean=(0.5,) * 3, std=(0.25,) * 3, **SAVED)
        options = {
            "distill.teacher": str(teacher), "data.size": SIZE, "run.batch": own.batch, "run.precision": own.precision,
            "run.compile": own.compile, "run.device": own.device, "run.steps": 10**6,
            **{f"distill.student.{name}": 0 for name in ("width", "depth", "heads", "patch_size")},
        }  # fmt: skip
        self.recipe, self.own = plan("digits/distill", options=options).recipe, own
        self.source = ImageSource(Noise(own.images), "noise")
        low = own.precision == "bf16"
        self.task = Distill(self.recipe.own, self.source, size=SIZE, seed=0, device=own.device, low=low)
        share_drop_path(self.task.module)
        self.strategy = Strategy(self.task, self.recipe)
        self.state = State(self.task, self.recipe, RunFolder(folder))
        self.task.train_mode(True)

    def batches(self, resident: bool, workers: int, steps: int) -> Iterator[Batch]:
        kept = Resident(self.source, self.own.device) if resident else None
        common = {"size": SIZE, "batch": self.own.batch, "seed": 0, "view": PAPER_FD, "device": self.own.device}
        made = Batches(self.source, **common, stop=steps, workers=workers, resident=kept)
        return self.state.log.waiting(made)

    def step(self, batch: Batch) -> None:
        one_step(self.task, batch, batch.step, 1e-4, self.recipe, self.state, self.strategy)

    def wait(self) -> None:
        if self.own.device.startswith("cuda"):
            torch.cuda.synchronize()

    def timed(self, resident: bool, workers: int) -> tuple[float, float]:
        """Seconds a step, and the share of them that waited for data."""
        batches = self.batches(resident, workers, self.own.warm + self.own.steps)
        for _ in range(self.own.warm):
            self.step(next(batches))
        self.wait()
        self.state.log.waited = 0.0
        before = time.perf_counter()
        for batch in batches:
            self.step(batch)
        self.wait()
        taken = time.perf_counter() - before
        return taken / self.own.steps, self.state.log.waited / taken

    def busy(self) -> float:
        """Kernel time / wall over 50 profiled steps on resident data."""
        batches = self.batches(True, 0, 60)
        for _ in range(10):
            self.step(next(batches))
        self.wait()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            before = time.perf_counter()
            for batch in batches:
                self.step(batch)
            self.wait()
            wall = time.perf_counter() - before
        return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="with resident images they only draw")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    own = parser.parse_args()
    with TemporaryDirectory() as name:
        run = Run(own, Path(name))
        print(f"ViT-Ti/4, depth {own.depth}, on {own.device}, batch {own.batch}, {own.precision}")
        for title, resident in (("resident", True), ("loader", False)):
            taken, waited = run.timed(resident, own.workers)
            share = own.batch * run.task.flops / taken / peak(own.device, run.task.low)
            print(
                f"{title:9} {own.batch / taken:10.1f} images/s  {share:6.1%} of the peak  {waited:6.2%} waiting  "
                f"{100 * (50_000 // own.batch) * taken:8.0f} s for 100 epochs"
            )
        busy = f"{run.busy():.1%}" if own.device.startswith("cuda") else "not measured (needs --device cuda)"
        print(f"kernel time / wall: {busy}")


if __name__ == "__main__":
    main()
