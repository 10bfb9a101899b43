"""Small classifiers of every kind that a fine-tuning can leave, without a training."""

from __future__ import annotations

import torch
from torch import nn

from fdlab.encoders.encoder import Encoder, pair
from fdlab.encoders.student import Design, build, fold_bias_scale, timm_call
from fdlab.study.classifier import Classifier, PooledHead
from fdlab.study.exports.subject import Preprocessing, Subject
from fdlab.tasks.classify import Standardise

CLASSES = ("ant", "bee", "cat")


def design(**changes) -> Design:
    return Design(**{"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "heads": 2, "init": "beit", **changes})


DESIGNS = {
    "vit": design(position="learned", class_token=True),
    "vit without class token": design(position="sincos"),
    "vit with layer scale": design(position="learned", class_token=True, layer_scale=0.1),
    "relative, shared": design(position="shared_bias"),
    "relative, a block": design(position="block_bias"),
    "beit, shared": design(position="shared_bias", class_token=True, layer_scale=0.1),
    "beit, a block": design(position="block_bias", class_token=True),
    "swin": design(position="block_bias", stages=(1, 1), depth=2, window=2, init="timm"),
}


def drawn(module: nn.Module, seed: int) -> None:
    """Weights that no layer's start has: tables, scales and shifts of norms count as well."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def encoder(kind: str) -> Encoder:
    module = build(DESIGNS[kind], seed=0).eval()
    fold_bias_scale(module)
    drawn(module, 1)
    return Encoder.wrap(module, call=timm_call(DESIGNS[kind]), family="supervised", source="/home/somebody/secret.pth")


def head_norm(kind: str, width: int) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    if kind == "none":
        return nn.Identity()
    if kind == "layernorm":
        norm: nn.Module = nn.LayerNorm(width, 1e-6)
        drawn(norm, 3)
        return norm
    made = Standardise(width) if kind == "standardise" else nn.BatchNorm1d(width, eps=1e-6, affine=False)
    for name, value in made.named_buffers():
        if value.ndim:
            spread = name in ("sd", "running_var")
            value.copy_(torch.rand(width, generator=generator) + 0.5 if spread else torch.randn(width))
    return made.eval()


def tuned(kind: str, norm: str = "standardise", final_norm: bool = True) -> Subject:
    """A classifier of one of ``DESIGNS`` as a fine-tuning leaves it."""
    return tuned_on(encoder(kind), norm, final_norm)


def tuned_on(made: Encoder, norm: str, final_norm: bool) -> Subject:
    """An encoder with a head; its logits are written out here, from the definition."""
    width, prefix = made.info.width, made.info.prefix_tokens
    part, linear = head_norm(norm, width), nn.Linear(width, len(CLASSES))
    drawn(linear, 4)

    def logits(images: torch.Tensor) -> torch.Tensor:
        tokens = made.tokens(images, norm=final_norm)
        return linear(part(tokens[:, prefix:].mean(1)))

    found = Classifier(made, CLASSES, True, logits, PooledHead(final_norm, part, linear), False)
    size = pair(made.info.image_size)
    done = Preprocessing(size, round(size[0] * 256 / 224), made.info.mean, made.info.std, True)
    return Subject(made, found, done, None, "tuned")
