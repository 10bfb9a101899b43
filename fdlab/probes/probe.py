"""``Probe``: what a probe declares of itself; ``PROBES``: all of them by name; and what several of them need.

A probe is one file of this room that ends with ``PROBE = Probe(...)`` and one line in ``PROBES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, cast

from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fdlab.encoders.encoder import Encoder
    from fdlab.encoders.reading import Advances, SlicedImages
    from fdlab.records.store import Record

P = ParamSpec("P")
# name -> "module:object"; a probe's module is imported when the probe is asked for
PROBES = {
    "attention": "fdlab.probes.attention:PROBE",
    "attention_maps": "fdlab.probes.attention_maps:PROBE",
    "attribution": "fdlab.probes.attribution:PROBE",
    "features": "fdlab.probes.features:PROBE",
    "hessian": "fdlab.probes.hessian:PROBE",
    "landscape": "fdlab.probes.landscape:PROBE",
    "sharpness": "fdlab.probes.sharpness:PROBE",
}


@dataclass(frozen=True)
class Probe:
    """One probe, as ``fdlab.measure`` needs to know it.

    Args:
        measure: ``(encoder, images, *, label, seed, batch, progress, **settings) -> Record`` of one model.
        version: part of every question of the store: a higher one makes old answers void.
        settings: the names of ``measure``'s own settings, which a user may give.
        known_answers: the cases of ``fdlab.known_answers.doctor.CASES`` that hold its arithmetic.
        models: those of the settings that are models (SOURCE or ``Encoder``): their weights are part of the question.
        takes: what else ``measure`` is handed by name: ``labels`` of the images, in the same slices, or None where
            some image has none; ``unfinished``, a folder for what it has so far; ``earlier``, its own record of the
            first of these images, so that only the rest is measured.
        identity: ``(encoder, settings)`` -> what the numbers depend on beside the encoder's weights, as JSON.
        announcement: ``(encoder, (height, width), settings)`` -> a sentence that is said before it starts.
        between: ``({label: Record}, seed=)`` -> rows on pairs of models, from their records.
        intervals_anew: ``(record, seed)`` -> the record with its intervals made again, for answers that the store has
            kept from an earlier method of intervals.
        refusal: ``(encoder, settings)`` -> why this model cannot be measured, or None: it is then left out.
    """

    measure: Callable[..., Record]
    version: int
    settings: tuple[str, ...]
    known_answers: str
    models: tuple[str, ...] = ()
    takes: tuple[Literal["labels", "unfinished", "earlier"], ...] = ()
    identity: Callable[[Encoder, Mapping[str, Any]], dict[str, Any]] | None = None
    announcement: Callable[[Encoder, Sequence[int], Mapping[str, Any]], str] | None = None
    between: Callable[..., pd.DataFrame] | None = None
    intervals_anew: Callable[[Record, int], Record] | None = None
    refusal: Callable[[Encoder, Mapping[str, Any]], FdlabError | None] | None = None

    def check(self, name: str, settings: Mapping[str, Any]) -> None:
        """Refuses settings that this probe, called ``name``, does not have.

        Raises:
            FdlabError: code 2.
        """
        known = [*self.settings, *(["tolerance"] if "earlier" in self.takes else [])]
        for key in settings:
            if key not in known:
                raise FdlabError(
                    f"The probe '{name}' has no setting '{key}'.{nearest(key, known)}",
                    fix=f"Its settings: {', '.join(known) or 'none'}.",
                    code=USAGE,
                )


def find_probe(name: str) -> Probe:
    """The probe of this name.

    Raises:
        FdlabError: code 2, there is none.
    """
    check_name("No probe is called", name, PROBES)
    module, _, attribute = PROBES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def manifest_of(probe: str, version: int, encoder: Encoder, label: str, seed: int, images: int) -> dict[str, Any]:
    """What the record of any probe says of its model and images; a probe adds its own keys."""
    info = encoder.info
    return {
        "probe": probe,
        "version": version,
        "label": label,
        "weights": info.sha256,
        "source": str(info.source),
        "family": info.family,
        "depth": info.depth,
        "grid": list(info.grid),
        "options": list(info.options),
        "assumed": list(info.assumed),
        "images": images,
        "seed": seed,
    }


# --- what several probes need ----------------------------------------------------------------------------


def untouched(measure: Callable[P, Record]) -> Callable[P, Record]:
    """A probe's ``measure`` in eval mode and with gradients allowed, which leaves the model as it was.

    Training modes, gradient flags and buffers come back, also after an error or Ctrl-C; a caller under
    ``torch.no_grad`` gets the same numbers.
    """

    @wraps(measure)
    def measured(*args: P.args, **settings: P.kwargs) -> Record:
        import torch  # a probe is listed without it

        from fdlab.measures.directions import kept

        module = cast("Encoder", args[0]).module
        with kept(module), torch.enable_grad():
            module.eval()
            return measure(*args, **settings)

    return measured


def check_name(refusal: str, name: str, known: Iterable[str], title: str = "Known") -> None:
    """Refuses a name that is not among the known ones.

    >>> check_name("There is no part", "whole", ("whole", "blocks"))
    >>> check_name("There is no part", "block", ("whole", "blocks"), "Parts")
    Traceback (most recent call last):
    fdlab.errors.FdlabError: There is no part 'block'. Did you mean 'blocks'?
    Parts: whole, blocks.

    Raises:
        FdlabError: code 2.
    """
    names = list(known)
    if name not in names:
        raise FdlabError(f"{refusal} '{name}'.{nearest(name, names)}", fix=f"{title}: {', '.join(names)}.", code=USAGE)


def check_images(images: Tensor | SlicedImages) -> None:
    """Refuses what is no (n, 3, H, W) with at least one image.

    Raises:
        FdlabError: code 2.
    """
    if len(images.shape) != 4 or len(images) == 0:
        raise FdlabError(
            f"Images of shape {tuple(images.shape)} cannot be measured.", fix="Pass (n, 3, H, W).", code=USAGE
        )


def batches_of(
    images: Tensor | SlicedImages, batch: int, progress: Advances | None, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The number of a batch's first image and its (b, 3, H, W) images, one batch after another.

    Images that cannot be read are left out of their batch. The progress is told when the caller is done with a batch.
    """
    stop = len(images) if stop is None else stop
    for first in range(start, stop, batch):
        raw = images[first : min(first + batch, stop)]
        if len(raw):
            yield first, raw
            if progress is not None:
                progress.advance(len(raw))


def expect(progress: Any, units: int) -> None:
    """Says how many units of work there will be, where that is not the number of images."""
    if isinstance(progress, Progress):
        progress.total = units
