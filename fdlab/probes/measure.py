"""Any probe by name on any models: opens models and images, asks the store first, joins the tables.

All models see the same images: the first N of one permutation that depends on the seed alone.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fdlab.checkpoints.open import open_model, open_module
from fdlab.checkpoints.sources import is_code, parse_label
from fdlab.data.sources import open_data
from fdlab.data.streamed import Labels, Streamed
from fdlab.encoders.channels import check_colour
from fdlab.encoders.devices import pick_device
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.wrap import wrap
from fdlab.errors import USAGE, FdlabError
from fdlab.probes.fitting import fitting
from fdlab.probes.growth import checked, drawn, grow, stages
from fdlab.probes.probe import Probe, find_probe
from fdlab.progress import Progress, say
from fdlab.randomness import seed_for
from fdlab.records.intervals import METHOD
from fdlab.records.store import Record, Store, default_store
from fdlab.records.table import CONTROL, join
from fdlab.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from fdlab.data.images import ImageSource


FEW = 16


class Records(dict[str, Record]):
    """Label -> Record, carried in ``table.attrs``. pandas copies and compares attrs at every step, which
    would copy every array and ask for the truth of one: so copies are itself, and equal means identical."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Records:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]


def measure(
    probe: str,
    models: Any,
    data: str = "photos",
    images: int = 256,
    seed: int = 0,
    *,
    device: str = "cpu",
    batch: int = 32,
    store: Store | None = None,
    fresh: bool = False,
    quiet: bool = True,
    random_control: bool = False,
    **settings: Any,
) -> pd.DataFrame:
    """Measure models with one probe on the same images.

    Args:
        probe: a name in ``fdlab.probes.probe.PROBES``: ``attention``, ...
        models: one or several of: "SOURCE", "label=SOURCE", an ``Encoder``, a module of your own; or
            {label: any of these}.
        data: the images (``--data`` grammar).
        images: how many, drawn by the seed; all where there are fewer.
        seed: of the images' choice and of the intervals.
        device: where models given by name run.
        store: where answers are kept; by default the user's own store.
        fresh: measure again even where the store has the answer.
        random_control: add the first model's architecture before its first step, as "random start".
        settings: the probe's own, e.g. ``metrics=("distance", "nmi")`` for attention. A probe that can go on from
            an earlier record (attention) also has ``tolerance``: images are added, the same for all models, until
            the 95 % half-width of every metric in [0, 1] and of ``distance_ratio`` is within it for every model, or
            ``images`` are used up; the manifest's ``tolerance`` says which. 0 (the default): all ``images``.

    Returns:
        The table (one row a number) of all models; ``.attrs["record"]``: {label: Record}.

    A model that the probe cannot measure (attention of a CNN) is left out with a warning that says why.

    Raises:
        FdlabError: unknown probe or setting, two models of one label, no model that the probe can measure
            (``NotForModel``), and what opening or measuring raises.
    """
    chosen = find_probe(probe)
    chosen.check(probe, settings)
    tolerance = checked(settings.pop("tolerance", 0.0))
    encoders = {label: _opened(label, model, device, seed) for label, model in _labelled(models).items()}
    if random_control:
        encoders |= _random_control(encoders, device, seed)
    encoders, left_out = fitting(probe, chosen, encoders, settings)
    for sentence in left_out:
        warnings.warn(sentence, stacklevel=2)
    for name in chosen.models:
        if settings.get(name) and isinstance(settings[name], (str, Path)):
            settings[name] = open_model(parse_label(str(settings[name]))[1], device=device, seed=seed)
        elif isinstance(settings.get(name), nn.Module):
            settings[name] = open_module(settings[name], device=pick_device(device))
    request = _Request(
        probe, chosen, data, seed, batch, default_store() if store is None else store, fresh, quiet, settings
    )
    sources = {label: open_data(data, size=max(_size(encoder)), seed=seed) for label, encoder in encoders.items()}
    available = len(next(iter(sources.values())).sample(images, seed))
    if available < min(FEW, images):
        warnings.warn(f"Only {available} images in {data}: the intervals are wide.", stacklevel=2)

    def all_models(count: int, earlier: Mapping[str, Record]) -> Records:
        draw = partial(drawn, count=count, seed=seed)
        records = Records()
        for label, encoder in encoders.items():
            source = draw(sources[label]) if tolerance else sources[label].sample(count, seed)
            records[label] = request.record(label, encoder, source, count, earlier.get(label))
        return records

    records = grow(all_models, stages(images, available), tolerance) if tolerance else all_models(images, {})
    tables = [record.table for record in records.values()]
    if len(records) > 1 and chosen.between is not None:
        tables.append(chosen.between(records, seed=seed))
    table = join(tables)
    table.attrs["record"] = records
    return table


# --- one model -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    """What one call of ``measure`` asks of every model."""

    name: str
    probe: Probe
    data: str
    seed: int
    batch: int
    store: Store
    fresh: bool
    quiet: bool
    settings: Mapping[str, Any]

    def record(
        self, label: str, encoder: Encoder, source: ImageSource, asked: int, earlier: Record | None = None
    ) -> Record:
        """The store's answer, or a new one; ``earlier`` holds the first of the same images."""
        images = Streamed(source, _size(encoder))
        question = self.question(encoder, source, asked)
        extra: dict[str, Any] = {}
        if "labels" in self.probe.takes:
            extra["labels"], question["labels"] = _labels(source, images)
        unfinished = self.store.unfinished(question)
        if "unfinished" in self.probe.takes:
            extra["unfinished"] = unfinished
        if self.fresh:
            shutil.rmtree(unfinished, ignore_errors=True)
        record = None if self.fresh else self.stored(label, question)
        if record is None:
            record = self.measured(label, encoder, images, extra, earlier)
            skipped = source.skipped + (earlier.manifest["skipped"] if earlier is not None else 0)
            encoder.check_unchanged()
            record.manifest |= {"data": self.data, "data_digest": source.digest, "skipped": skipped}
            record.manifest |= {"notes": list(source.notes), "fdlab": __version__, "intervals": METHOD}
            self.store.put(question, record)
        return _named(record, label, encoder)

    def question(self, encoder: Encoder, source: ImageSource, asked: int) -> dict[str, Any]:
        """Everything that the numbers depend on. The label is not among them."""
        info = encoder.info
        question = {
            "probe": self.name,
            "version": self.probe.version,
            "weights": info.sha256,
            "settings": {key: _plain(value) for key, value in sorted(self.settings.items())},
            "images": {"digest": source.digest, "count": len(source), "asked": asked},
            "preprocessing": [source.preprocessing, info.image_size, list(info.mean), list(info.std)],
            "seed": self.seed,
        }
        if self.probe.identity is not None:
            question["beside"] = self.probe.identity(encoder, self.settings)
        return question

    def stored(self, label: str, question: dict[str, Any]) -> Record | None:
        """The store's answer; one whose intervals were made by an earlier method gets them anew from its arrays."""
        record = self.store.get(question)
        if record is not None and record.manifest.get("intervals", 1) != METHOD:
            if self.probe.intervals_anew is not None:
                record = self.probe.intervals_anew(record, self.seed)
            record.manifest["intervals"] = METHOD
            self.store.put(question, record)
        if record is None and (older := self.store.older_version(question)) is not None:
            warnings.warn(
                f"{label}: the store's answer is of version {older} of the {self.name} probe, now "
                f"{self.probe.version}: measured again.",
                stacklevel=5,
            )
        return record

    def measured(
        self, label: str, encoder: Encoder, images: Streamed, extra: dict[str, Any], earlier: Record | None
    ) -> Record:
        """A new record; its ``seconds`` count those of ``earlier`` too."""
        if self.probe.announcement is not None:
            say(f"{label}: {self.probe.announcement(encoder, _size(encoder), self.settings)}", quiet=self.quiet)
        began, offered = time.perf_counter(), 0
        if earlier is not None:
            extra["earlier"] = earlier
            began, offered = began - earlier.manifest["seconds"], int(earlier.manifest["offered"])
        with Progress(label, len(images) - offered, quiet=self.quiet) as progress:
            common: dict[str, Any] = {"label": label, "seed": self.seed, "batch": self.batch, "progress": progress}
            record = self.probe.measure(encoder, images, **common, **self.settings, **extra)
        record.manifest["seconds"] = round(time.perf_counter() - began, 3)
        return record


def _labels(source: ImageSource, images: Streamed) -> tuple[Labels | None, str]:
    """The labels for a probe that takes them, and their digest; None where some image has none."""
    labels = source.labels()
    if not len(labels) or labels.min() < 0:
        return None, ""
    return Labels(images), hashlib.sha256(labels.tobytes()).hexdigest()


def _plain(value: Any) -> Any:
    """Settings as JSON knows them: a tuple and a list of names are one question; a model is its weights."""
    if isinstance(value, Encoder):
        return value.info.sha256
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _named(record: Record, label: str, encoder: Encoder) -> Record:
    """The record under this label (the store may have it under another); untrained models are a family."""
    columns: dict[str, str] = {"model": label}
    if encoder.info.source.startswith("random:"):
        columns["family"] = "random"
    manifest = {**record.manifest, "label": label, "kind": encoder.info.kind}
    if encoder.info.repository:
        manifest["repository"] = encoder.info.repository
    return Record(record.table.assign(**columns), record.arrays, manifest)


# --- models --------------------------------------------------------------------------------------------


def _labelled(models: Any) -> dict[str, Any]:
    """{label: SOURCE or Encoder}, in the order given."""
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        pairs = [_with_label(model) for model in (models if isinstance(models, (list, tuple)) else [models])]
    if not pairs:
        raise FdlabError("No model is given.", fix="Name at least one: a file, a run folder, timm:NAME.", code=USAGE)
    labels = [label for label, _ in pairs]
    for label in labels:
        if labels.count(label) > 1:
            raise FdlabError(
                f"Two models have the label '{label}'.",
                "Labels tell models apart in tables and figures.",
                "Name them: 'first=SOURCE' 'second=SOURCE', or {label: model} in Python.",
                USAGE,
            )
    return dict(pairs)


def _opened(label: str, model: Any, device: str, seed: int) -> Encoder:
    """An ``Encoder`` as it is, a module wrapped where it lies, a SOURCE opened on the device."""
    if isinstance(model, nn.Module):
        return check_colour(open_module(model, name=label, device=pick_device(device)))
    if isinstance(model, Encoder):
        model.check_unchanged()
        return model
    return check_colour(open_model(str(model), device=device, seed=seed))


def _with_label(model: Any) -> tuple[str, Any]:
    if isinstance(model, (str, Path)):
        return parse_label(str(model))
    if isinstance(model, nn.Module):
        return type(model).__name__, model
    return str(model.info.timm_name or model.info.family), model


def _random_control(encoders: Mapping[str, Encoder], device: str, seed: int) -> dict[str, Encoder]:
    """The first model's architecture, untrained, where some name for it can be opened; else a warning that says why."""
    if CONTROL in encoders:
        raise FdlabError(f"The label '{CONTROL}' is the control's.", fix="Name your model otherwise.", code=USAGE)
    first = next(iter(encoders.values()))
    info = first.info
    if info.source.startswith("random:"):
        return {}  # it is its own control
    if first.untrained is not None:
        return {CONTROL: _untrained(first, seed)}
    name = info.source.removeprefix("timm:") or info.timm_name
    # a bare file may need the head count that the first model was opened with
    with_heads: dict[str, Any] = {"heads": info.heads, "image_size": info.image_size}
    why = "nothing names its architecture."
    if first.anatomy.calls is not None and first.call is None and not is_code(info.source):
        name = ""
        why = (
            f"There is no untrained form of {type(first.module).__name__}: its builder is not known, and resetting "
            "parameters is not its initialiser. Give untrained=(seed) -> module to fdlab.wrap."
        )
    for options in ({}, with_heads) if name else ():
        try:
            control = open_model(f"random:{name}", device=device, seed=seed, **options)
        except FdlabError as error:
            why = f"random:{name} cannot be opened: {error.what}"
            continue
        if _shape(control) == _shape(first):
            return {CONTROL: control}
        why = f"random:{name} has other sizes than the model ({_sizes(control)}, not {_sizes(first)})."
    warnings.warn(
        f"No untrained control of the first model could be built: {why} "
        "Without it nothing can be owed to training. Add one as a model: untrained=random:NAME with a timm name or a "
        "run folder of the same architecture; --no-control leaves it out knowingly (control=False in Python).",
        stacklevel=3,
    )
    return {}


def _untrained(first: Encoder, seed: int) -> Encoder:
    """The module before training, as its owner builds it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "construct"))
        made = first.untrained(seed) if first.untrained is not None else None
    info = first.info
    if first.call is not None:  # a module that the reader of its files opened
        control = open_module(made, name=CONTROL, image_size=info.image_size, device=first.device)  # type: ignore[arg-type]
    else:
        control = wrap(made, image_size=info.image_size, mean=info.mean, std=info.std, name=CONTROL)  # type: ignore[arg-type]
    told = replace(control.info, source=f"random:{info.source}", kind="random", taken=f"random weights, seed {seed}")
    return Encoder(control.module, told, control.call, control.anatomy)


def _shape(encoder: Encoder) -> tuple[Any, ...]:
    info = encoder.info
    return info.depth, info.width, info.heads, info.patch_size, tuple(info.grid), info.prefix_tokens


def _sizes(encoder: Encoder) -> str:
    info = encoder.info
    grid = "x".join(map(str, info.grid))
    return f"{info.depth} blocks of width {info.width}, {info.heads} heads, {grid} patches of {info.patch_size} px"


def _size(encoder: Encoder) -> tuple[int, int]:
    """The model's input size in pixels, (height, width)."""
    size = encoder.info.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
