"""What a run folder keeps beside its encoder: the projector, decoder or classifier that the training ended with."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


def _run_folder(encoder: Encoder) -> Path | None:
    path = Path(encoder.info.source)
    folder = path if path.is_dir() else path.parent
    return folder if encoder.info.source and (folder / "heads.safetensors").is_file() else None


def kept_heads(encoder: Encoder) -> dict[str, Tensor]:
    """What the model's run folder keeps beside its encoder; empty where there is none."""
    from safetensors.torch import load_file

    folder = _run_folder(encoder)
    return {} if folder is None else load_file(folder / "heads.safetensors")


def kept_recipe(encoder: Encoder) -> dict[str, Any]:
    """The resolved recipe of the model's run; empty where there is none."""
    folder = _run_folder(encoder)
    path = None if folder is None else folder / "recipe.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}


def heads_identity(encoder: Encoder) -> dict[str, str]:
    """The sha256 of the kept heads and of their recipe, which an objective may read and the weights' identity lacks."""
    folder = _run_folder(encoder)
    files = [folder / "heads.safetensors", folder / "recipe.toml"] if folder is not None else []
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer of these (K, C) weights and (K,) biases."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer.to(weight.device)


def kept_linear(heads: dict[str, Tensor], name: str) -> nn.Linear:
    """The head of this name as a layer."""
    return linear(heads[f"{name}.weight"], heads[f"{name}.bias"])


def kept_norm(heads: dict[str, Tensor], width: int) -> nn.Module:
    """The pooled token's norm of a fine-tuning: a LayerNorm, or fixed statistics as an affine map."""
    if "norm.mean" in heads:
        return _Fixed(heads["norm.mean"], heads["norm.sd"])
    norm = nn.LayerNorm(width, 1e-6)
    norm.load_state_dict({key: heads[f"norm.{key}"] for key in ("weight", "bias")})
    return norm


class _Fixed(nn.Module):
    """``(x - mean) / sd``."""

    mean: Tensor
    sd: Tensor

    def __init__(self, mean: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.sd
