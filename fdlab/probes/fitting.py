"""Which models a probe can measure: the others are left out with a sentence, and stop nobody else's measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fdlab.errors import FdlabError

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder
    from fdlab.probes.probe import Probe


class NotForModel(FdlabError):
    """A probe, or one part of it, that no model of those given allows; ``left_out`` holds a sentence a model."""

    left_out: tuple[str, ...] = ()


def fitting(
    name: str, probe: Probe, encoders: Mapping[str, Encoder], settings: Mapping[str, Any]
) -> tuple[dict[str, Encoder], list[str]]:
    """The models that the probe can measure under these settings, and a sentence on each that it cannot.

    Raises:
        NotForModel: there is none; what is said is the first model's reason.
    """
    if probe.refusal is None:
        return dict(encoders), []
    refused = {label: why for label, encoder in encoders.items() if (why := probe.refusal(encoder, settings))}
    part = f", part {settings['part']}" if settings.get("part") else ""
    said = [
        f"{label} is left out of {name}{part}: {why.what.rstrip('.')} ({why.why.rstrip('.')})."
        for label, why in refused.items()
    ]
    if len(refused) == len(encoders):
        first = next(iter(refused.values()))
        error = NotForModel(first.what, first.why, first.fix, first.code)
        error.left_out = tuple(said)
        raise error
    return {label: encoder for label, encoder in encoders.items() if label not in refused}, said
