"""What a run keeps beside its encoder: projector, decoder, classifier, in ``heads.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fdlab.checkpoints.save import write_safetensors


def save_heads(path: Path, heads: Mapping[str, nn.Module]) -> Path:
    """Writes the heads' tensors under ``name.key``, whole or not at all."""
    state: dict[str, Tensor] = {}
    for name, head in heads.items():
        state |= {f"{name}.{key}": tensor.detach().clone() for key, tensor in head.state_dict().items()}
    return write_safetensors(path, state, {"fdlab_heads": ",".join(heads)})
