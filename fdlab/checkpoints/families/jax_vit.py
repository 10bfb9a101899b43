"""``.npz`` files of google-research/vision_transformer: published ones (numbered within a block) and linen's own names.

Kernels are transposed: (in, out), (width, heads, head width), (rows, columns, channels, width). flax's ``nn.gelu`` is
the tanh form; timm's models of these files use the exact one.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from fdlab.checkpoints.builders.built import HEADS
from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import HALF, Family, Network, Place, under

_BLOCK = re.compile(r"Transformer\.encoderblock_(\d+)\.(\w+?)_(\d+)\.(.*)")
_TOP = {
    "embedding.bias": "patch_embed.proj.bias",
    "cls": "cls_token",
    "Transformer.posembed_input.pos_embedding": "pos_embed",
    "pos_embedding": "pos_embed",
    "Transformer.encoder_norm.scale": "norm.weight",
    "Transformer.encoder_norm.bias": "norm.bias",
    "head.bias": "head.bias",
}


def _is_jax_vit(network: Network, contents: Contents) -> bool:
    return any(_BLOCK.match(key) for key in network)


def _convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under timm's names; a representation layer before the head takes the head with it."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _BLOCK.fullmatch(key)
        if match:
            found |= _in_block(f"blocks.{match[1]}.", match[2], int(match[3]), match[4], value)
        elif key == "embedding.kernel":
            found["patch_embed.proj.weight"] = value.permute(3, 2, 0, 1).contiguous()
        elif key == "head.kernel":
            found["head.weight"] = value.T.contiguous()
        else:
            found[_TOP.get(key, key)] = value
    if any(key.startswith("pre_logits.") for key in found):
        found = {key: value for key, value in found.items() if not key.startswith(("pre_logits.", "head."))}
    return _joined(found)


def _in_block(stem: str, part: str, number: int, rest: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a block; the second norm is number 1 (linen) or 2 (published)."""
    if part == "LayerNorm":
        return {f"{stem}norm{1 if number == 0 else 2}.{'weight' if rest == 'scale' else rest}": value}
    layer, _, kind = rest.partition(".")
    name = "weight" if kind == "kernel" else kind
    if part == "MlpBlock":
        fc = {"Dense_0": "fc1", "Dense_1": "fc2"}.get(layer, layer)
        return {f"{stem}mlp.{fc}.{name}": value.T.contiguous() if value.ndim == 2 else value}
    if layer == "out":
        return {f"{stem}attn.proj.{name}": value.flatten(0, 1).T.contiguous() if kind == "kernel" else value}
    return {f"{stem}attn.{layer}.{name}": value}  # query, key, value: joined below


def _joined(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k, v as one matrix; their shape (width, heads, head width) shows the heads."""
    state = {key: value for key, value in found.items() if not re.search(r"\.attn\.(query|key|value)\.", key)}
    for key, query in found.items():
        if ".attn.query." not in key:
            continue
        parts = [query, *(found[key.replace("query", other)] for other in ("key", "value"))]
        joined = key.replace("attn.query", "attn.qkv")
        if key.endswith("weight"):
            state[joined] = torch.cat([part.flatten(1).T for part in parts]).contiguous()
            state[HEADS] = torch.tensor(query.shape[1])
        else:
            state[joined] = torch.cat([part.flatten() for part in parts])
    return state


FAMILIES = (
    Family(
        name="jax_vit",
        title="ViT of google-research/vision_transformer (JAX, .npz)",
        kind="supervised",
        encoders={"model": (*under("", "params.", "params.img.", "opt.target.", tables=("",)), Place("params"))},
        default=("model",),
        matches=_is_jax_vit,
        marker="embedding.kernel",
        leftovers=(r"MAPHead_\d+\..*", r"/(txt|t|b|opt).*"),
        convert=_convert,
        mean=HALF,
        std=HALF,
        activation="gelu_tanh",
        resize="antialias",
        resize_is_ours=True,
    ),
)
