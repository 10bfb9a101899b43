"""``Monitor``: any module is measured while somebody else's loop trains it, and the training does not notice.

Rows go to one growing table with the column ``step``; ``fdlab report FOLDER`` and ``fdlab.figure("over_steps", ...)``
draw it. The hooks of training libraries are in ``fdlab/monitor.py``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fdlab.encoders.attending import check_attention
from fdlab.encoders.channels import check_colour
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.identity import tensors_digest
from fdlab.encoders.undisturbed import undisturbed
from fdlab.encoders.wrap import wrap
from fdlab.errors import USAGE, FdlabError
from fdlab.probes.probe import find_probe
from fdlab.progress import say
from fdlab.records.atomic import read_json, writable_folder, write_json
from fdlab.records.growing import GrowingTable
from fdlab.records.table import join
from fdlab.study.diagnosis import facts_of
from fdlab.study.live import Cost, Live, Probes, chosen_probes, first_process

if TYPE_CHECKING:
    from fdlab.records.store import Record

PROBES = ("attention", "features")
PROVE = 10  # measurements between two proofs that all attention is seen
MANIFEST = "manifest.json"


class Monitor:
    """Measures a module every so many steps of a training that fdlab does not run.

    Call it behind the optimizer's step: ``monitor(step)``. Where the step is not due it returns at once. A measurement
    leaves training flags of every part, gradients, buffers and all random states as they were, so that the training is
    bit for bit the one without it. A failing measurement is warned of once and ends the monitor, never the training.
    Only rank 0 measures.

    Args:
        module: in any mode, also compiled or in DDP; an ``Encoder`` of ``fdlab.wrap`` where something has to be said of
            it (image size, tokens, mean and std). None: it is given at the first call, ``monitor(module, step)``.
        data: the images, in the grammar of ``--data``; the same ones at every step, kept in memory.
        every: steps between measurements; 0: only those of ``at``.
        at: further steps.
        probes: names, or {name: its settings}. By default attention, where it can be read, and features.
        out: the folder of ``table.csv``, ``facts.json`` and ``manifest.json``. A training that goes on continues it.
        images: how many, drawn by the seed.
        seed: of the choice of images and of the intervals.
        batch: images in one forward pass.
        name: the model's name in the table; by default its class.
        family: how figures colour it: supervised, mim, contrastive, distilled, image-text.
        quiet: do not say what a measurement costs.

    Raises:
        FdlabError: code 2, an unknown probe or setting, no steps to measure at, other settings than those that the
            folder was started with; code 3, a module or images that cannot be read. Always before the first step.

    Example:
        ``monitor = fdlab.Monitor(net, data="photos/", every=500, out="runs/monitor")``
    """

    def __init__(
        self,
        module: nn.Module | Encoder | None = None,
        *,
        data: str,
        out: str | Path,
        every: int = 500,
        at: Iterable[int] = (),
        probes: Iterable[str] | Probes | None = None,
        images: int = 64,
        seed: int = 0,
        batch: int = 32,
        name: str = "",
        family: str = "",
        quiet: bool = False,
    ) -> None:
        self.every, self.at = int(every), frozenset(int(step) for step in at)
        if self.every < 0 or not (self.every or self.at):
            raise FdlabError(
                "There is no step to measure at.",
                f"every={every} and at is empty." if not every else f"every={every} counts steps.",
                "Give every=500, or at=(100, 1000).",
                code=USAGE,
            )
        self.asked = probes is not None
        self.probes = chosen_probes(PROBES if probes is None else probes)
        self.data, self.count, self.seed, self.batch = data, int(images), int(seed), int(batch)
        self.name, self.family, self.quiet, self.folder = name, family, quiet, Path(out)
        self.stopped = ""  # why it ended before its training, where it did
        self.cost: Cost | None = None
        self.live: Live | None = None
        self.last: int | None = None  # the step of the last measurement
        self._count = 0
        if module is not None:
            self.watch(module)

    def due(self, step: int) -> bool:
        """Whether this step is one to measure at."""
        return step in self.at or (self.every > 0 and step % self.every == 0)

    def __call__(self, module: nn.Module | Encoder | int | None = None, step: int | None = None) -> bool:
        """Measures, where the step is due: ``monitor(step)`` or ``monitor(module, step)``.

        Returns:
            Whether it measured. A step that is given twice is measured once.

        Raises:
            FdlabError: code 2, no step or no module is given.
        """
        if step is None and not isinstance(module, (nn.Module, Encoder)):
            module, step = None, module
        if step is None:
            raise FdlabError("The monitor needs the step.", fix="Call monitor(step).", code=USAGE)
        step = int(step)
        if self.stopped or not first_process():
            return False
        if module is not None and not self.watches(module):  # type: ignore[arg-type]
            self.watch(module)  # type: ignore[arg-type]
        if self.live is None:
            raise FdlabError("The monitor has no module.", fix="Call monitor(module, step).", code=USAGE)
        if step == self.last or not self.due(step):
            return False
        self.last = step
        try:
            self._measure(self.live, step)
        except Exception as error:  # whatever goes wrong here is no reason to lose a training
            self.stopped = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"The monitor stops at step {step}, the training goes on: {str(error).splitlines()[0]} "
                f"What it measured before is in {self.folder}.",
                stacklevel=2,
            )
            return False
        return True

    # --- what is watched --------------------------------------------------------------------------------------

    def watch(self, module: nn.Module | Encoder) -> None:
        """Takes a module: infers its parts, reads the images, says what a measurement costs. Rank 0 alone.

        Raises:
            FdlabError: see the class.
        """
        if not first_process() or self.watches(module):
            return
        given = module.module if isinstance(module, Encoder) else module
        with undisturbed(given):
            encoder = check_colour(module if isinstance(module, Encoder) else wrap(module, name=self.name))
            label = self.name or encoder.info.title.removesuffix(" (own module)") or type(encoder.module).__name__
            probes = self._possible(encoder)
            common = {"data": self.data, "count": self.count, "seed": self.seed, "batch": self.batch}
            live = Live(encoder, given, label, probes, **common)  # type: ignore[arg-type]
            writable_folder(self.folder)
            self._check_folder(live.question())
            self.table = GrowingTable(self.folder / "table.csv")
            self.cost = live.trial()
        self.live = live
        if not self.quiet:
            self._say(live, self.cost)

    def watches(self, module: nn.Module | Encoder) -> bool:
        """Whether this is the module that is measured."""
        inner = module.module if isinstance(module, Encoder) else module
        return self.live is not None and (inner is self.live.given or inner is self.live.encoder.module)

    def _possible(self, encoder: Encoder) -> dict[str, Mapping[str, Any]]:
        """The probes; attention that nobody asked for is left out where it cannot be read, which is said."""
        probes = dict(self.probes)
        if "attention" in probes:
            try:
                check_attention(encoder)
            except FdlabError as error:
                if self.asked:
                    raise
                del probes["attention"]
                say(f"{error.what} The monitor measures {', '.join(probes)}.", quiet=self.quiet)
        return probes

    def _check_folder(self, question: Mapping[str, Any]) -> None:
        """Refuses a folder in which something else was measured."""
        before = read_json(self.folder / MANIFEST).get("question")
        if before is None and (self.folder / "table.csv").is_file():
            before = {}
        if before is not None and before != question:
            differ = [key for key in question if before.get(key) != question[key]]
            raise FdlabError(
                f"{self.folder} holds other measurements.",
                "; ".join(f"{key}: {before.get(key, 'unknown')}, now {question[key]}" for key in differ) + ".",
                "Give another out=, or the settings that it was started with.",
                code=USAGE,
            )

    def _say(self, live: Live, cost: Cost) -> None:
        """What is measured, when, at what cost, and what is there already."""
        steps = [f"every {self.every} steps"] if self.every else []
        steps += [f"at {', '.join(map(str, sorted(self.at)))}"] if self.at else []
        say(
            f"Monitor of {live.label}: {', '.join(live.probes)} on {len(live.images)} images of {self.data} "
            f"{' and '.join(steps)}; {cost}. Rows go to {self.table.path}."
        )
        for name, settings in live.probes.items():
            if (announce := find_probe(name).announcement) is not None:
                say(f"{name}, not in this estimate: {announce(live.encoder, live.images.shape[-2:], settings)}")
        if known := self.table.steps:
            say(
                f"{self.table.path} has steps {known[0]} to {known[-1]} of an earlier start; a step that is measured "
                "again takes the place of its old rows."
            )

    # --- one measurement ----------------------------------------------------------------------------------------

    def _measure(self, live: Live, step: int) -> None:
        began = time.perf_counter()
        with undisturbed(live.given):
            self._count += 1
            if self._count % PROVE == 2:
                live.check_proof()
            records = {name: live.record(name) for name in live.probes}
            weights = tensors_digest(live.encoder.module)
        table = join(record.table for record in records.values())
        self.table.put(step, table.assign(family=self.family or live.encoder.info.kind))
        manifest = read_json(self.folder / MANIFEST)
        steps = {**manifest.get("steps", {}), str(step): {"weights": weights, "seconds": 0.0}}
        steps[str(step)]["seconds"] = round(time.perf_counter() - began, 3)
        steps = {key: steps[key] for key in sorted(steps, key=int)}
        told = {"question": live.question(), "explain": live.encoder.explain().splitlines(), "steps": steps}
        write_json(self.folder / MANIFEST, told)
        write_json(self.folder / "facts.json", self._facts(live, next(iter(records.values())), weights))

    def _facts(self, live: Live, record: Record, weights: str) -> dict[str, Any]:
        """What captions and the page say beside the table."""
        manifest = record.manifest | {"skipped": live.skipped}
        return facts_of("monitor", self.data, self.seed, {live.label: manifest}) | {
            "title": f"{live.label} along its training",
            "question": "What changes in this model while it is trained?",
            "notes": [f"{live.label}: {text}" for text in live.encoder.info.assumed],
            "models": {live.label: {"source": "measured while it was trained", "sha256": weights}},
        }
