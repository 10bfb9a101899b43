"""Training: steps beside the official way, what keeps the device busy, data, compiling, fine-tuning."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fdlab.checkpoints.save import save_encoder
from fdlab.encoders.cost import cost_of, dense
from fdlab.encoders.student import Design, build
from fdlab.engine.hardware import peak
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan
from tests.benchmarks import engine, pipeline, resident
from tests.benchmarks.gpu.rows import Row, tell
from tests.benchmarks.gpu.sizes import Sizes, peak_gb, seconds, wait


def distilling(sizes: Sizes, compiled: bool = False) -> None:
    """One distilling step as the official code writes it, and ours."""
    part = "distilling, compiled" if compiled else "distilling"
    student, teacher, head = engine.networks(sizes.model, sizes.depth, sizes.device)
    side = engine.MODELS[sizes.model][0]
    images = torch.rand(sizes.batch, 3, side, side, device=sizes.device)
    tokens = student.patch_embed.num_patches + 1
    flops = sizes.batch * (cost_of(student).training() + 3 * dense(head, tokens) + cost_of(teacher).forward)
    name = f"ViT-{sizes.model}, {side} px, batch {sizes.batch}"
    rates = {}
    ways = {"ours": lambda: engine.ours(student, teacher, head, compiled)}
    if not compiled:
        ways = {"official way": lambda: engine.official(student, teacher, head), **ways}
    for way, make in ways.items():
        step = make()
        taken = seconds(sizes, lambda step=step: step(images))
        rates[way] = sizes.batch / taken
        expected = {"official way": "2000", "ours": "3500 to 3700" if compiled else "2900"}[way] if sizes.cuda else ""
        tell(Row(part, f"{way}, {name}", rates[way], "images/s", expected))
        share = flops / taken / peak(sizes.device, sizes.cuda)
        tell(Row(part, f"{way}: share of the measured matrix product", share, "of 1"))
        tell(Row(part, f"{way}: memory of a step", peak_gb(sizes, lambda step=step: step(images)), "GB"))
    if len(rates) == 2:
        tell(Row(part, "ours / official way", rates["ours"] / rates["official way"], "ratio", "1.45"))


def compiled_distilling(sizes: Sizes) -> None:
    """The same with every block compiled; compiling is not in the times."""
    distilling(sizes, compiled=True)


@contextlib.contextmanager
def _small_run(sizes: Sizes, compiled: bool = False) -> Iterator[resident.Run]:
    own = argparse.Namespace(
        device=sizes.device, batch=sizes.small_batch, depth=12 if sizes.cuda else 1, images=sizes.small_images,
        precision="bf16" if sizes.cuda else "float32", compile=compiled, workers=0,
        warm=20 if sizes.cuda else 1, steps=100 if sizes.cuda else 2,
    )  # fmt: skip
    with TemporaryDirectory() as name:
        yield resident.Run(own, Path(name))


def small_model(sizes: Sizes) -> None:
    """The engine's own step for ViT-Ti/4 at 32 px, its data on the device and from loader processes."""
    with _small_run(sizes) as run:
        for title, there, workers in (("data on the device", True, 0), ("8 loader processes", False, 8)):
            taken, waited = run.timed(there, workers if sizes.cuda else 0)
            what = f"ViT-Ti/4, 32 px, batch {sizes.small_batch}, {title}"
            tell(Row("small model", what, sizes.small_batch / taken, "images/s", "50000" if there else ""))
            tell(Row("small model", f"{title}: share of the time that waits for data", waited, "of 1", "0"))
        if sizes.cuda:
            tell(Row("small model", "kernel time / wall", run.busy(), "of 1", "> 0.97 at batch 1024"))


def busy(sizes: Sizes) -> None:
    """Launches a step and kernel time over wall of the large model's step."""
    student, teacher, head = engine.networks(sizes.model, sizes.depth, sizes.device)
    side = engine.MODELS[sizes.model][0]
    images = torch.rand(sizes.batch, 3, side, side, device=sizes.device)
    step = engine.ours(student, teacher, head, compiled=False)
    for _ in range(3):
        step(images)
    steps = 5 if sizes.cuda else 1
    kinds = torch.profiler.ProfilerActivity
    wait(sizes)
    with torch.profiler.profile(activities=[kinds.CUDA if sizes.cuda else kinds.CPU]) as profile:
        wall = seconds(sizes, lambda: [step(images) for _ in range(steps)], repeats=1, warm=0)
    events = profile.key_averages()
    used = sum(event.self_device_time_total for event in events) / 1e6
    turns = 1 if sizes.cuda else 2
    tell(Row("busy", "kernel time / wall", used / wall if sizes.cuda else None, "of 1", "> 0.97"))
    tell(Row("busy", "launches a step", sum(event.count for event in events) / steps / turns, "launches", "950"))
    for event in sorted(events, key=lambda event: -event.self_device_time_total)[:10] if sizes.cuda else ():
        share = event.self_device_time_total / 1e6 / used
        tell(Row("busy", f"kernel {event.key[:80]}", share, "of the kernel time"))


def decoding(sizes: Sizes) -> None:
    """JPEGs of 500 x 400 to batches of 224 px, through loader processes on this machine's cores."""
    with TemporaryDirectory() as name:
        for number in range(sizes.decoded):
            (Path(name) / f"{number:05}.jpg").write_bytes(pipeline.photograph(number % 64))
        for workers in (8, 16) if sizes.cuda else (0,):
            passes = pipeline.ways(Path(name), min(64, sizes.decoded), workers)
            for way in passes.keys() - {"official"}:
                taken = seconds(sizes, lambda start=passes[way]: sum(1 for _ in start()), repeats=1, warm=0)
                what = f"JPEGs of 500 x 400 to 224 px, {way.removeprefix('ours, ')}, {workers} processes"
                tell(Row("decoding", what, sizes.decoded / taken, "images/s", f"{450 * max(workers, 1)}"))


def fine_tuning(sizes: Sizes) -> None:
    """One step of a classifier on the large model, with the engine's own task, augmentations among it."""
    side = engine.MODELS[sizes.model][0]
    with TemporaryDirectory() as name:
        start = Path(name) / "start.safetensors"
        size, patch, width, depth, heads = engine.MODELS[sizes.model]
        design = Design(size, patch, width, sizes.depth or depth, heads, position="learned", class_token=True)
        save_encoder(start, build(design, seed=1), design=design, mean=(0.5,) * 3, std=(0.25,) * 3, **resident.SAVED)
        batch = max(sizes.batch // 2, 2)
        options = {
            "data.source": "digits#train[:512]", "data.test": "", "data.size": side, "run.batch": batch,
            "run.device": sizes.device, "run.precision": "bf16" if sizes.cuda else "float32", "run.steps": 10**6,
            "run.epochs": 0, "data.validation": 0, "data.per_class": 0, "classify.model": str(start),
        }  # fmt: skip
        planned = plan("folder/finetune", options=options)
        task, batches, _ = prepared(planned.recipe, planned.task, sizes.device)
        strategy, state = Strategy(task, planned.recipe), State(task, planned.recipe, RunFolder(Path(name) / "run"))
        task.train_mode(True)
        feed = batches(0)
        first = next(iter(feed))

        def step() -> None:
            one_step(task, first, first.step, 1e-4, planned.recipe, state, strategy)

        rate = batch / seconds(sizes, step)
        tell(Row("fine-tuning", f"ViT-{sizes.model}, {side} px, batch {batch}", rate, "images/s"))
        tell(Row("fine-tuning", "memory of a step", peak_gb(sizes, step), "GB"))
