"""Any probe by name on any models: opens models and images, asks the store first, joins the tables.

All models see the same images: the first N of one permutation that depends on the seed alone.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fdlab.probes
from fdlab.checkpoints.known import Known, known_model
from fdlab.checkpoints.sources import parse_label
from fdlab.data.sources import open_data
from fdlab.data.streamed import Labels, Streamed
from fdlab.encoders.encoder import Encoder, EncoderInfo
from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.probes.growth import checked, drawn, grow, stages
from fdlab.progress import Progress, say
from fdlab.records.intervals import METHOD
from fdlab.records.store import Record, Store, default_store
from fdlab.records.table import join
from fdlab.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from fdlab.data.images import ImageSource


FEW = 16
Model = Encoder | Known  # open, or known without having been opened
CONTROL = "random start"
_NO_PROBE = (
    "attention_reading",
    "growth",
    "measure",
    "objectives",
    "teacher",
)  # files of this package that are no probe by name
# what this function hands to a probe itself: no user settings
_OWN = ("encoder", "images", "labels", "label", "seed", "batch", "progress", "store", "unfinished", "earlier")


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
        probe: ``attention``, ... (``probe_names()``).
        models: one or several of: "SOURCE", "label=SOURCE", an ``Encoder``; or {label: SOURCE or Encoder}.
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

    A probe with a parameter ``labels`` gets the images' labels: in slices like the images (``labels[a:b]``
    belongs to ``images[a:b]``), or None where some image has none; one with ``store`` gets the store, one with
    ``unfinished`` a folder for what it has so far. Its module may name settings that are models (``MODELS``; given
    as SOURCE or ``Encoder``), and hold ``identity(encoder, settings) -> dict``, what its numbers depend on beside
    the weights, ``announcement(encoder, size, settings) -> str``, said before it starts, ``between(records, *, seed)
    -> table``, which adds rows on pairs of models from their records, and ``intervals_anew(record, seed) -> Record``,
    for answers that are kept from an earlier method of intervals.

    Returns:
        The table (one row a number) of all models; ``.attrs["record"]``: {label: Record}.

    Raises:
        FdlabError: unknown probe or setting, two models of one label, and what opening or measuring raises.
    """
    module, function = _probe(probe, settings)
    tolerance = checked(settings.pop("tolerance", 0.0))
    kept_in = default_store() if store is None else store
    find = partial(known_model, notes=kept_in.root / "models", device=device, seed=seed)
    opened = _found(models, find)
    if random_control:
        opened |= _random_control(opened, find, device, seed)
    for name in getattr(module, "MODELS", ()):  # settings that name a model
        if settings.get(name) and isinstance(settings[name], (str, Path)):
            settings[name] = find(parse_label(str(settings[name]))[1])
    run = _Run(probe, module, function, data, seed, batch, kept_in, fresh, quiet, settings)
    sources = {label: open_data(data, size=max(_size(model)), seed=seed) for label, model in opened.items()}
    first = next(iter(sources.values()))
    found = len(first.sample(images, seed))
    if found < min(FEW, images):
        warnings.warn(f"Only {found} images in {data}: the intervals are wide.", stacklevel=2)

    def all_models(asked: int, earlier: Mapping[str, Record]) -> Records:
        records = Records()
        for label, model in opened.items():
            whole = sources[label]
            part = drawn(whole, asked, seed) if tolerance else whole.sample(asked, seed)
            records[label] = run.record(label, model, part, asked, earlier.get(label))
        return records

    records = grow(all_models, stages(images, found), tolerance) if tolerance else all_models(images, {})
    tables = [record.table for record in records.values()]
    if len(records) > 1 and hasattr(module, "between"):
        tables.append(module.between(records, seed=seed))
    table = join(tables)
    table.attrs["record"] = records
    return table


def probe_names() -> list[str]:
    """The probes there are: one file of this package each."""
    return sorted(m.name for m in pkgutil.iter_modules(fdlab.probes.__path__) if m.name not in _NO_PROBE)


# --- one model -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What one call of ``measure`` asks of every model."""

    probe: str
    module: Any
    function: Callable[..., Record]
    data: str
    seed: int
    batch: int
    store: Store
    fresh: bool
    quiet: bool
    settings: Mapping[str, Any]

    def record(
        self, label: str, model: Model, source: ImageSource, asked: int, earlier: Record | None = None
    ) -> Record:
        """The store's answer, or a new one; ``earlier`` holds the first of the same images."""
        streamed = Streamed(source, _size(model))
        question = _question(self.probe, self.module.VERSION, model, source, asked, self.seed, self.settings)
        if hasattr(self.module, "identity"):
            question["beside"] = self.module.identity(model, self.settings)
        more, takes = dict(self.settings), inspect.signature(self.function).parameters
        if "labels" in takes:
            more["labels"], question["labels"] = _labels(source, streamed)
        unfinished = self.store.unfinished(question)
        offered = {"store": self.store, "unfinished": unfinished}
        more |= {name: value for name, value in offered.items() if name in takes}
        if earlier is not None:
            more["earlier"] = earlier
        if self.fresh:
            shutil.rmtree(unfinished, ignore_errors=True)
        record = None if self.fresh else self._stored(question)
        if record is None:
            older = None if self.fresh else self.store.older_version(question)
            if older is not None:
                warnings.warn(
                    f"{label}: the store's answer is of version {older} of the {self.probe} probe, now "
                    f"{self.module.VERSION}: measured again.",
                    stacklevel=4,
                )
            encoder = _open(model)
            more |= {name: _open(value) for name, value in more.items() if isinstance(value, Known)}
            if hasattr(self.module, "announcement"):
                say(f"{label}: {self.module.announcement(encoder, _size(encoder), self.settings)}", quiet=self.quiet)
            record = _answer(self.function, encoder, streamed, label, self.seed, self.batch, self.quiet, more)
            skipped = source.skipped + (earlier.manifest["skipped"] if earlier is not None else 0)
            record.manifest |= {"data": self.data, "data_digest": source.digest, "skipped": skipped}
            record.manifest |= {"notes": list(source.notes), "fdlab": __version__, "intervals": METHOD}
            self.store.put(question, record)
        return _named(record, label, model)

    def _stored(self, question: dict[str, Any]) -> Record | None:
        """The store's answer; one whose intervals were made by an earlier method gets them anew from its arrays."""
        record = self.store.get(question)
        if record is not None and record.manifest.get("intervals", 1) != METHOD:
            if hasattr(self.module, "intervals_anew"):
                record = self.module.intervals_anew(record, self.seed)
            record.manifest["intervals"] = METHOD
            self.store.put(question, record)
        return record


# --- probes --------------------------------------------------------------------------------------------


def _probe(name: str, settings: Mapping[str, Any]) -> tuple[Any, Callable[..., Record]]:
    """The probe's module and function, settings checked against its signature."""
    known = probe_names()
    if name not in known:
        raise FdlabError(
            f"No probe is called '{name}'.{nearest(name, known)}", "", f"Known: {', '.join(known)}.", USAGE
        )
    module = importlib.import_module(f"fdlab.probes.{name}")
    function = getattr(module, f"measure_{name}", None)
    if function is None:
        raise FdlabError(f"The probe '{name}' has no form for many models.", "", f"Use fdlab.probes.{name}.", USAGE)
    parameters = inspect.signature(function).parameters
    taken = [key for key in parameters if key not in _OWN]
    if "earlier" in parameters:
        taken.append("tolerance")
    for key in settings:
        if key not in taken:
            raise FdlabError(
                f"The probe '{name}' has no setting '{key}'.{nearest(key, taken)}",
                "",
                f"Its settings: {', '.join(taken) or 'none'}.",
                USAGE,
            )
    return module, function


def _answer(
    function: Callable[..., Record],
    encoder: Encoder,
    images: Streamed,
    label: str,
    seed: int,
    batch: int,
    quiet: bool,
    settings: Mapping[str, Any],
) -> Record:
    began = time.perf_counter()
    earlier = settings["earlier"].manifest if "earlier" in settings else {"offered": 0, "seconds": 0.0}
    with Progress(label, len(images) - earlier["offered"], quiet=quiet) as progress:
        record = function(encoder, images, label=label, seed=seed, batch=batch, progress=progress, **settings)
    record.manifest["seconds"] = round(earlier["seconds"] + time.perf_counter() - began, 3)
    return record


def _labels(source: ImageSource, images: Streamed) -> tuple[Labels | None, str]:
    """The labels for a probe that takes them, and their digest; None where some image has none."""
    answers = source.labels()
    if not len(answers) or answers.min() < 0:
        return None, ""
    return Labels(images), hashlib.sha256(answers.tobytes()).hexdigest()


def _question(
    probe: str,
    version: int,
    model: Model,
    source: ImageSource,
    images: int,
    seed: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the numbers depend on. The label is not among them."""
    info = model.info
    return {
        "probe": probe,
        "version": version,
        "weights": info.sha256,
        "settings": {key: _plain(value) for key, value in sorted(settings.items())},
        "images": {"digest": source.digest, "count": len(source), "asked": images},
        "preprocessing": [source.preprocessing, info.image_size, list(info.mean), list(info.std)],
        "seed": seed,
    }


def _plain(value: Any) -> Any:
    """Settings as JSON knows them: a tuple and a list of names are one question; a model is its weights."""
    if isinstance(value, Model):
        return value.info.sha256
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _named(record: Record, label: str, model: Model) -> Record:
    """The record under this label (the store may have it under another); untrained models are a family."""
    named: dict[str, str] = {"model": label}
    if model.info.source.startswith("random:"):
        named["family"] = "random"
    return Record(
        record.table.assign(**named), record.arrays, {**record.manifest, "label": label, "kind": model.info.kind}
    )


# --- models --------------------------------------------------------------------------------------------


def _found(models: Any, find: Callable[[str], Known]) -> dict[str, Model]:
    """{label: model}, in the order given."""
    pairs = list(models.items()) if isinstance(models, Mapping) else [_labelled(m) for m in _listed(models)]
    if not pairs:
        raise FdlabError("No model is given.", "", "Name at least one: a file, a run folder, timm:NAME.", USAGE)
    labels = [label for label, _ in pairs]
    for label in labels:
        if labels.count(label) > 1:
            raise FdlabError(
                f"Two models have the label '{label}'.",
                "Labels tell models apart in tables and figures.",
                "Name them: 'first=SOURCE' 'second=SOURCE', or {label: model} in Python.",
                USAGE,
            )
    return {label: find(str(model)) if isinstance(model, (str, Path)) else model for label, model in pairs}


def _listed(models: Any) -> list[Any]:
    return list(models) if isinstance(models, (list, tuple)) else [models]


def _labelled(model: Any) -> tuple[str, Any]:
    if isinstance(model, (str, Path)):
        return parse_label(str(model))
    return str(model.info.timm_name or model.info.family), model


def _open(model: Model) -> Encoder:
    return model.encoder if isinstance(model, Known) else model


def _random_control(
    opened: Mapping[str, Model], find: Callable[[str], Known], device: str, seed: int
) -> dict[str, Model]:
    """The first model's architecture, untrained, where some name for it can be opened; else a warning."""
    if CONTROL in opened:
        raise FdlabError(f"The label '{CONTROL}' is the control's.", "", "Name your model otherwise.", USAGE)
    first = next(iter(opened.values()))
    info = first.info
    if info.source.startswith("random:"):
        return {}  # it is its own control
    name = info.source.removeprefix("random:").removeprefix("timm:") or info.timm_name
    ways: list[Callable[[], Model]] = [lambda: find(f"random:{name}")] if name else []
    if name and isinstance(first, Encoder):  # a bare file needs the head count that it may have been opened with
        ways.insert(0, lambda: _untrained(name, info, device, seed))
    for way in ways:
        try:
            control = way()
        except FdlabError:
            continue
        if _shape(control) == _shape(first):
            return {CONTROL: control}
    warnings.warn("No untrained control of the first model could be built.", stacklevel=3)
    return {}


def _untrained(name: str, info: EncoderInfo, device: str, seed: int) -> Encoder:
    from fdlab.checkpoints.open import open_model

    return open_model(f"random:{name}", device=device, seed=seed, heads=info.heads, image_size=info.image_size)


def _shape(model: Model) -> tuple[Any, ...]:
    info = model.info
    return info.depth, info.width, info.heads, info.patch_size, tuple(info.grid), info.prefix_tokens


def _size(model: Model) -> tuple[int, int]:
    """The model's input size in pixels, (height, width)."""
    size = model.info.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
