"""An encoder as a file that stock timm loads strictly, without fdlab."""

from __future__ import annotations

import json
from pathlib import Path

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.save import write_safetensors
from fdlab.encoders.student import stock_state
from fdlab.errors import FdlabError


def export_timm(encoder: Encoder, path: str | Path) -> Path:
    """Safetensors with the stock class's keys; the ``timm`` metadata names the class and its arguments."""
    if encoder.call is None:
        raise FdlabError(
            f"{path} was not written.",
            "It is not known how this model's timm class was made.",
            "Open the model with fdlab.open_model first.",
        )
    entry = {
        **encoder.call.to_json(),
        "mean": encoder.info.mean,
        "std": encoder.info.std,
        "activation": encoder.info.activation,
        "interpolation": encoder.info.interpolation,
    }
    return write_safetensors(Path(path), stock_state(encoder.module), {"timm": json.dumps(entry, sort_keys=True)})
