"""A model that is measured while somebody else trains it: its parts, its images, one measurement and what it costs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fdlab.data.sources import open_data
from fdlab.data.streamed import Streamed
from fdlab.encoders.anatomy import COMPLETE
from fdlab.encoders.attending import pair_of
from fdlab.encoders.knockout import KnockOut
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.probes.probe import find_probe

if TYPE_CHECKING:
    from torch import nn

    from fdlab.encoders.encoder import Encoder
    from fdlab.records.store import Record

Probes = Mapping[str, Mapping[str, Any]]  # name -> its settings
TRIAL = 16  # images of the smaller part that the cost is estimated from
MIB = 2**20


class Live:
    """One model under training with the images that it is measured on, read once and kept on the CPU.

    Args:
        encoder: around the very module that is trained.
        given: that module as its owner holds it (compiled, in DDP).
        data: the images, in the grammar of ``--data``.

    Raises:
        FdlabError: code 3, no image can be read.
    """

    def __init__(
        self,
        encoder: Encoder,
        given: nn.Module,
        label: str,
        probes: Probes,
        *,
        data: str,
        count: int,
        seed: int,
        batch: int,
    ) -> None:
        self.encoder, self.given, self.label, self.probes = encoder, given, label, probes
        self.data, self.seed, self.batch = data, seed, batch
        size = pair_of(encoder.info.image_size)
        source = open_data(data, size=max(size), seed=seed).sample(count, seed)
        streamed, whole, labels = Streamed(source, size), slice(0, len(source)), source.labels()
        self.images = streamed[whole]  # (n, 3, H, W) float32 in [0, 1]
        self.labels = streamed.answers(whole) if len(labels) and labels.min() >= 0 else None
        self.digest, self.skipped = source.digest, source.skipped
        if not len(self.images):
            raise FdlabError(f"None of the images of {data} could be read.", fix="Check data=.", code=NOT_UNDERSTOOD)
        self.proof = self._proved()

    def question(self) -> dict[str, Any]:
        """What all measurements of one training have in common, as JSON: all but the weights."""
        encoder = self.encoder
        shapes = [f"{name} {tuple(p.shape)}" for name, p in encoder.module.named_parameters()]
        asked = {
            "model": self.label,
            "class": type(encoder.module).__name__,
            "architecture": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
            "image_size": list(pair_of(encoder.info.image_size)),
            "data": self.data,
            "images": [len(self.images), self.digest],
            "seed": self.seed,
            "probes": {name: [find_probe(name).version, dict(given)] for name, given in self.probes.items()},
        }
        return dict(json.loads(json.dumps(asked, default=str)))

    def record(self, name: str, count: int | None = None) -> Record:
        """One probe on the first ``count`` images; the caller sees to it that nothing is disturbed."""
        probe, extra = find_probe(name), dict[str, Any]()
        count = len(self.images) if count is None else count
        if "labels" in probe.takes:
            extra["labels"] = None if self.labels is None else self.labels[:count]
        with tempfile.TemporaryDirectory() as unfinished:
            if "unfinished" in probe.takes:
                extra["unfinished"] = Path(unfinished)
            common: dict[str, Any] = {"label": self.label, "seed": self.seed, "batch": self.batch, "progress": None}
            return probe.measure(self.encoder, self.images[:count], **common, **self.probes[name], **extra)

    def check_proof(self) -> None:
        """Proves again that all attention is seen: a branch that was zero at the start may mix tokens later.

        Raises:
            FdlabError: code 3, what mixes tokens is not what it was when the training began.
        """
        if self._proved() != self.proof:
            raise FdlabError(
                f"Attention of {self.label} can no longer be read completely.",
                "Something mixes tokens now that did not when the training began.",
                'Measure without it: probes=("features",).',
                code=NOT_UNDERSTOOD,
            )

    def _proved(self) -> Any:
        """What the knock-out finds now: whether attention is refused, tokens leak, or lie in another order."""
        encoder = self.encoder
        if "attention" not in self.probes or encoder.info.attention != COMPLETE:
            return None
        noise = torch.randn(1, 3, *self.images.shape[-2:], generator=torch.Generator().manual_seed(self.seed))
        noise = noise.to(next(encoder.module.parameters()))
        knock = KnockOut(encoder.module, lambda image: encoder.anatomy.read_tokens(encoder.module, image), noise)
        verdict = knock.judge(encoder.info.grid, encoder.info.prefix_tokens)
        return bool(verdict.why), verdict.leak, bool(verdict.disorder)

    # --- cost -------------------------------------------------------------------------------------------------

    def trial(self) -> Cost:
        """What one measurement costs, by a line through two parts of the images; all of them where they are few.

        Probes that announce themselves take minutes, and are left out.
        """
        names = [name for name in self.probes if find_probe(name).announcement is None]

        def timed(count: int) -> float:
            began = time.perf_counter()
            for name in names:
                self.record(name, count)
            return time.perf_counter() - began

        before, every, small, large = peak_memory(self.encoder.device), len(self.images), TRIAL, 2 * TRIAL
        try:
            timed(min(small, every))  # what is imported or compiled once is no part of the cost
            few, more = (timed(small), timed(large)) if every > large else (0.0, 0.0)
        except FdlabError:  # some measures need more images than a trial has
            few = more = 0.0
        seconds = more + max(more - few, 0.0) * (every - large) / (large - small) if more else timed(every)
        memory = peak_memory(self.encoder.device) - before
        return Cost(seconds, large if more else every, every, memory, self.images.nbytes)


@dataclass(frozen=True)
class Cost:
    """One measurement: ``seconds``, estimated from ``part`` of ``every`` image; ``memory`` at its peak beyond what the
    process had so far, and that of the ``images``, in bytes.

    >>> print(Cost(1.25, 32, 64, 12 * MIB, 3 * MIB))
    about 1.2 s a measurement (estimated from 32 images), 12 MiB of memory, 3 MiB for the images
    """

    seconds: float
    part: int
    every: int
    memory: int
    images: int

    def __str__(self) -> str:
        how = "measured" if self.part == self.every else f"estimated from {self.part} images"
        digits = 1 if self.seconds < 10 else 0
        further = f"{self.memory / MIB:.0f} MiB of memory" if self.memory >= MIB / 2 else "hardly any memory"
        held = f"{max(self.images / MIB, 1):.0f} MiB for the images"
        return f"about {self.seconds:.{digits}f} s a measurement ({how}), {further}, {held}"


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process had so far, of the device where it has its own memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def first_process() -> bool:
    """Whether this process is rank 0 of its training, or alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK") or 0) == 0


def chosen_probes(probes: Iterable[str] | Probes) -> dict[str, Mapping[str, Any]]:
    """{probe: settings}, all of them known.

    Raises:
        FdlabError: code 2.
    """
    names = [probes] if isinstance(probes, str) else list(probes)
    if not names:
        raise FdlabError("There is nothing to measure.", fix='Name probes: ("attention", "features").', code=USAGE)
    chosen: dict[str, Mapping[str, Any]] = {}
    for name in names:
        chosen[name] = dict(probes[name]) if isinstance(probes, Mapping) else {}
        find_probe(name).check(name, chosen[name])
        if "tolerance" in chosen[name]:
            raise FdlabError(
                "A monitor has no tolerance.", "It measures all of its images at every step.", "Give images=N.", USAGE
            )
    return chosen
