"""``Probe``: what a probe declares of itself; ``PROBES``: all of them by name; ``manifest_of``: what a record says.

A probe is one file of this room that ends with ``PROBE = Probe(...)`` and one line in ``PROBES``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fdlab.errors import USAGE, FdlabError, nearest

if TYPE_CHECKING:
    import pandas as pd

    from fdlab.encoders.encoder import Encoder
    from fdlab.records.store import Record

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
        models: those of the settings that are models (SOURCE or ``Encoder``): their weights are part of the question.
        takes: what else ``measure`` is handed by name: ``labels`` of the images, in the same slices, or None where
            some image has none; ``unfinished``, a folder for what it has so far; ``earlier``, its own record of the
            first of these images, so that only the rest is measured.
        identity: ``(encoder, settings)`` -> what the numbers depend on beside the encoder's weights, as JSON.
        announcement: ``(encoder, (height, width), settings)`` -> a sentence that is said before it starts.
        between: ``({label: Record}, seed=)`` -> rows on pairs of models, from their records.
        intervals_anew: ``(record, seed)`` -> the record with its intervals made again, for answers that the store has
            kept from an earlier method of intervals.
    """

    measure: Callable[..., Record]
    version: int
    settings: tuple[str, ...]
    models: tuple[str, ...] = ()
    takes: tuple[Literal["labels", "unfinished", "earlier"], ...] = ()
    identity: Callable[[Encoder, Mapping[str, Any]], dict[str, Any]] | None = None
    announcement: Callable[[Encoder, Sequence[int], Mapping[str, Any]], str] | None = None
    between: Callable[..., pd.DataFrame] | None = None
    intervals_anew: Callable[[Record, int], Record] | None = None

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
    if name not in PROBES:
        raise FdlabError(
            f"No probe is called '{name}'.{nearest(name, PROBES)}", fix=f"Known: {', '.join(PROBES)}.", code=USAGE
        )
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
