"""timm's Swin and Swin V2 as transformers' classes: the merging of patches goes back to the end of its stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import pair
from fdlab.encoders.student import stock_state
from fdlab.study.exports.hf_model import ACTIVATIONS, HfModel, refused
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.timm_classes import folded

_RENAMES = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^norm\.", "layernorm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
    (r"\.attn\.(relative_position_bias_table|logit_scale)$", r".attention.self.\1"),
    (r"\.attn\.q_bias$", ".attention.self.query.bias"),
    (r"\.attn\.v_bias$", ".attention.self.value.bias"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_BUFFERS = re.compile(r"attn_mask$|relative_coords_table$|relative_position_index$|k_bias$")


def swin(subject: Subject, module: Any, prefix: str) -> HfModel:
    """The class of ``prefix``: "swin" or "swinv2".

    Raises:
        FdlabError: code 2, it has windows, an activation or a head that this class has not.
    """
    info = subject.encoder.info
    if info.activation not in ACTIVATIONS or not isinstance(module.patch_embed.norm, nn.LayerNorm):
        raise refused(subject, f"Its activation is {info.activation}, or its patch embedding has no norm.")
    window, first = info.windows[0][0], info.patch_size
    for stage, side in enumerate(info.windows):
        grid = min(pair(info.image_size)) // (first * 2**stage)
        # Swin's bias tables have the size of the stated window in every stage, Swin V2's windows are cut to the grid.
        if side != ((window,) * 2 if prefix == "swin" else (min(window, grid),) * 2):
            raise refused(
                subject, f"Its stages have windows {', '.join(map(str, info.windows))}, and Swin has one size."
            )
    state = _keys(stock_state(module))
    config = {
        "model_type": prefix,
        "image_size": info.image_size if isinstance(info.image_size, int) else list(info.image_size),
        "patch_size": first,
        "num_channels": len(info.mean),
        "embed_dim": module.patch_embed.proj.out_channels,
        "depths": list(info.stage_depths),
        "num_heads": list(info.stage_heads),
        "window_size": window,
        "mlp_ratio": _ratio(module),
        "hidden_act": ACTIVATIONS[info.activation],
        "layer_norm_eps": info.norm_eps,
        "drop_path_rate": 0.0,
    }
    if prefix == "swinv2":
        config["pretrained_window_sizes"] = [
            int(pair(stage.blocks[0].attn.pretrained_window_size)[0]) for stage in module.layers
        ]
    name = {"swin": "Swin", "swinv2": "Swinv2"}[prefix]
    if subject.classifier is None:
        return HfModel(f"{name}Model", config, state, {"add_pooling_layer": False})
    weight, bias = _head(subject, module)
    found = {f"{prefix}.{key}": value for key, value in state.items()}
    found |= {"classifier.weight": weight, "classifier.bias": bias}
    return HfModel(f"{name}ForImageClassification", config, found, {})


def _ratio(module: Any) -> float:
    mlp = module.layers[0].blocks[0].mlp.fc1
    return float(mlp.out_features / mlp.in_features)


def _head(subject: Subject, module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias behind the mean of the normed tokens."""
    assert subject.classifier is not None
    pooled = subject.classifier.pooled
    if pooled is not None:
        if isinstance(pooled.norm, nn.LayerNorm) or not pooled.final_norm:
            raise refused(subject, "Its classifier has other norms than the one before the mean of the tokens.")
        return folded(pooled)
    last = module.head.fc
    if not isinstance(last, nn.Linear) or module.head.global_pool.pool_type != "avg":
        raise refused(subject, "Its own classifier is not a linear layer behind the mean of the tokens.")
    return last.weight.detach(), last.bias.detach()


def _keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("head.") or _BUFFERS.search(key):
            continue
        if match := re.match(r"layers\.(\d+)\.downsample\.(.*)", key):
            found[f"encoder.layers.{int(match[1]) - 1}.downsample.{match[2]}"] = value
            continue
        new = key
        for pattern, put in _RENAMES:
            new = re.sub(pattern, put, new)
        if ".attn.qkv." in new:
            for name, part in zip(("query", "key", "value"), torch.chunk(value, 3), strict=True):
                found[new.replace(".attn.qkv.", f".attention.self.{name}.")] = part
        else:
            found[new] = value
    return found
