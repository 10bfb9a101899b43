"""Objectives with labels: a linear probe on frozen features, or the model's own classifier."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.classifier import Logistic, fit_logistic
from fdlab.probes.objectives.heads import kept_heads, kept_linear, kept_norm
from fdlab.probes.objectives.objective import Objective, checked_labels, frozen, split
from fdlab.records.store import Record, Store, default_store
from fdlab.records.table import frame

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


class Pooled(nn.Module):
    """An encoder, its pooled token, a norm and a linear head: (B, 3, H, W) -> (B, classes)."""

    def __init__(self, encoder: Encoder, pool: str, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.norm, self.head = encoder.module, norm, head
        self.pool = _Pool(encoder, pool)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.pool(images)))


class _Pool:
    """Images -> (B, C), through ``Encoder.tokens``, so that every family is read its own way."""

    def __init__(self, encoder: Encoder, pool: str) -> None:
        if pool not in ("patches", "class"):
            raise FdlabError(f"There is no pooling '{pool}'.", fix="Use patches or class.", code=USAGE)
        if pool == "class" and "cls" not in encoder.info.prefix_kinds:
            raise FdlabError("This model has no class token.", fix="Pool the patches.", code=USAGE)
        self.tokens, self.prefix, self.kind = encoder.tokens, encoder.info.prefix_tokens, pool

    def __call__(self, images: Tensor) -> Tensor:
        tokens = self.tokens(images)
        return tokens[:, 0] if self.kind == "class" else tokens[:, self.prefix :].mean(1)


def linear_probe(
    encoder: Encoder, inputs: Tensor, labels: Tensor | None, micro: int, pool: str, l2: float, store: Store | None
) -> Objective:
    """A converged, penalised classifier on the frozen pooled token, then frozen itself."""
    classes = _classes(labels, len(inputs))
    width = encoder.info.width
    norm = nn.LayerNorm(width, elementwise_affine=False)
    features = frozen(_Pool(encoder, pool), inputs, micro)
    fit = _kept_fit(norm(features).double().cpu().numpy(), classes.cpu().numpy(), l2, store)
    head = nn.Linear(width, len(fit.bias)).to(features)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(fit.weight))
        head.bias.copy_(torch.from_numpy(fit.bias))
    token = "class token" if pool == "class" else "mean patch token"
    description = (
        f"cross-entropy of a linear probe (LayerNorm of the {token}, l2 {l2:g}, fitted on these images), frozen"
    )
    facts = {"probe_loss": fit.loss, "probe_accuracy": fit.accuracy, "probe_gradient_norm": fit.gradient_norm}
    return _classified("linear-probe", description, Pooled(encoder, pool, norm, head), inputs, classes, micro, facts)


def _kept_fit(features: np.ndarray, labels: np.ndarray, l2: float, store: Store | None) -> Logistic:
    """The classifier fitted to these very features, labels and penalty: from the store where it is kept."""
    content = hashlib.sha256(np.ascontiguousarray(features).tobytes() + labels.astype(np.int64).tobytes()).hexdigest()
    question = {"fit": "logistic", "version": 1, "content": content, "shape": list(features.shape), "l2": l2}
    store = default_store() if store is None else store
    record = store.get(question)
    if record is not None:
        facts = {key: float(record.manifest[key]) for key in ("loss", "gradient_norm", "accuracy")}
        return Logistic(record.arrays["weight"], record.arrays["bias"], **facts)
    fit = fit_logistic(features, labels, l2=l2)
    manifest = {"loss": fit.loss, "gradient_norm": fit.gradient_norm, "accuracy": fit.accuracy}
    store.put(question, Record(frame([]), {"weight": fit.weight, "bias": fit.bias}, manifest))
    return fit


def classifier(encoder: Encoder, inputs: Tensor, labels: Tensor | None, micro: int) -> Objective:
    """The classifier in the model's file, or the one that its run folder keeps."""
    labels = checked_labels(labels, len(inputs))
    module: nn.Module
    if encoder.info.classes:
        module, classes = encoder.module, encoder.info.classes
    else:
        heads = kept_heads(encoder)
        if "head.weight" not in heads:
            encoder.logits(inputs)  # its error says what is missing
        module = Pooled(encoder, "patches", kept_norm(heads, encoder.info.width), kept_linear(heads, "head"))
        module.to(encoder.device)
        classes = len(heads["head.weight"])
    if int(labels.max()) >= classes:
        raise FdlabError(
            f"A label is {int(labels.max())}, but the classifier knows {classes} classes.",
            "These are not the classes that it was trained on.",
            "Use --objective linear-probe, or the images of its own classes.",
            NOT_UNDERSTOOD,
        )
    return _classified("classifier", "cross-entropy of the model's own classifier", module, inputs, labels, micro, {})


def _classified(
    name: str, description: str, module: nn.Module, inputs: Tensor, labels: Tensor, micro: int, facts: dict[str, Any]
) -> Objective:
    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def right(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.argmax(-1) == targets

    description = f"{description}; {len(inputs)} images, eval mode, no augmentation"
    batches = split(inputs, labels.to(inputs.device), micro)
    return Objective(name, description, module, {}, batches, module, criterion, right, facts)


def _classes(labels: Tensor | None, images: int) -> Tensor:
    """Labels counted from 0 without gaps."""
    return torch.unique(checked_labels(labels, images), return_inverse=True)[1]
