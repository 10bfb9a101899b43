"""timm's own files: hub folders (``config.json`` with an architecture) and checkpoints of its training script."""

from __future__ import annotations

from fdlab.checkpoints.builders.timm_name import fits
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import Family, Network, Place


def _matches(network: Network, contents: Contents) -> bool:
    inside = {key: value for key, value in network.items() if not key.startswith("/")}
    return fits(contents.arch, contents.value("arguments"), inside)


FAMILIES = (
    Family(
        name="timm",
        title="a model of timm, by its architecture's name",
        kind="unknown",  # its name tells: builders/timm_name.py
        encoders={
            "ema": (Place("state_dict_ema"),),
            "model": (Place("state_dict"), Place("")),
        },
        default=("ema", "model"),
        matches=_matches,
        builder="timm",
        resize="antialias",
    ),
)
