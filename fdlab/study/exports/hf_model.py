"""One class of transformers with its configuration and weights, and what is said where none fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fdlab.errors import USAGE, FdlabError
from fdlab.study.exports.subject import Subject

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu"}


@dataclass(frozen=True)
class HfModel:
    """One class: its name in ``architectures``, its configuration, its weights, arguments of ``from_pretrained``."""

    name: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    arguments: Mapping[str, Any]


def refused(subject: Subject, why: str) -> FdlabError:
    """What no class of transformers holds, with what can be used."""
    return FdlabError(
        f"No class of transformers is known here that computes {subject.name}.",
        why,
        f"Use --to timm, --to torch or --to onnx{subject.encoder_alone}.",
        code=USAGE,
    )
