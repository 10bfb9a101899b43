"""Which class of transformers computes a model: its configuration and the weights under its keys.

Plain ViTs are ``ViT`` (class token), ``IJepa`` (none), ``Dinov2`` (layer scale, registers, or the mean of normed
tokens) or ``Beit`` (the mean, then a norm; relative positions). Keys are those of files on the hub, which every
release reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import activation_name
from fdlab.encoders.student import stock_state
from fdlab.study.exports.hf_model import ACTIVATIONS, HfModel, refused
from fdlab.study.exports.hf_swin import swin
from fdlab.study.exports.subject import Subject
from fdlab.study.exports.timm_classes import folded

SWINS = {"SwinTransformer": "swin", "SwinTransformerV2": "swinv2"}
# timm's names within a block -> ViT's and BEiT's; Dinov2's are timm's but for attention and layer scale.
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@dataclass(frozen=True)
class Head:
    """``pool`` is "token" or "avg"; ``norms`` whether a norm stands on the tokens and after the pooling."""

    pool: str
    norms: tuple[bool, bool]
    weight: Tensor
    bias: Tensor
    after: nn.Module | None


def fitting(subject: Subject) -> HfModel:
    """The class of transformers for this model.

    Raises:
        FdlabError: code 2, none of those that are known here; the words say why.
    """
    module: Any = subject.encoder.module
    kind = type(module).__name__
    if type(module).__module__.startswith("timm."):
        if kind == "VisionTransformer":
            return _plain(subject, module)
        if kind == "Beit":
            return _beit(subject, module, stock_state(module), _head(subject, module))
        if kind in SWINS:
            return swin(subject, module, SWINS[kind])
    raise refused(subject, f"fdlab writes plain ViTs, BEiTs and Swins for transformers; this is a {kind}.")


def _plain(subject: Subject, module: Any) -> HfModel:
    block, head = module.blocks[0], _head(subject, module)
    faults = {
        "has registers and no class token": module.cls_token is None and module.num_reg_tokens > 0,
        "has no table of positions": module.pos_embed is None,
        "has a norm before its blocks": not isinstance(module.norm_pre, nn.Identity),
        "norms queries and keys": not isinstance(block.attn.q_norm, nn.Identity),
        "pools by attention": module.attn_pool is not None,
        "has norms within its MLP": not isinstance(getattr(block.mlp, "norm", nn.Identity()), nn.Identity),
    }
    if found := [fault for fault, true in faults.items() if true]:
        raise refused(subject, f"It {' and '.join(found)}.")
    scaled, registers = not isinstance(block.ls1, nn.Identity), module.num_reg_tokens
    state, normed = _separate(stock_state(module), module), _normed(module.norm)
    alone, plain = module.cls_token is None, type(block.mlp).__name__ == "Mlp" and not (scaled or registers)
    if head is not None and head.norms == (False, True) and head.pool == "avg" and not (registers or alone):
        return _beit(subject, module, state, head)
    if head is not None and head.norms != (True, False):
        raise refused(subject, "Its classifier has other norms than ViT, Dinov2 and Beit have.")
    if head is None and not normed:
        raise refused(subject, "Its final tokens have no norm.")
    if alone and not plain:
        raise refused(subject, "It has no class token, as IJepa has none, but another MLP or layer scale.")
    if plain and (alone or head is None or head.pool == "token"):
        return _vit(subject, module, state, head)
    return _dinov2(subject, module, state, head)


def _normed(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def _head(subject: Subject, module: Any) -> Head | None:
    if subject.classifier is None:
        return None
    pooled = subject.classifier.pooled
    if pooled is not None:
        after = pooled.norm if isinstance(pooled.norm, nn.LayerNorm) else None
        return Head("avg", (pooled.final_norm and _normed(module.norm), after is not None), *folded(pooled), after)
    if not isinstance(module.head, nn.Linear) or module.global_pool not in ("token", "avg"):
        raise refused(subject, "Its own classifier is not a linear layer behind a class token or a mean.")
    after = module.fc_norm if _normed(module.fc_norm) else None
    weight, bias = module.head.weight.detach(), module.head.bias.detach()
    return Head(module.global_pool, (_normed(module.norm), after is not None), weight, bias, after)


def _separate(state: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:
    """The table of positions for the class token and the patches; rows of registers go into the registers."""
    table, registers = state["pos_embed"], module.num_reg_tokens
    found = dict(state)
    if module.no_embed_class and module.cls_token is not None:
        found["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], 1)
    elif registers:
        found["pos_embed"] = torch.cat([table[:, :1], table[:, 1 + registers :]], 1)
        found["reg_token"] = state["reg_token"] + table[:, 1 : 1 + registers]
    return found


# --- the three classes ------------------------------------------------------------------------------------


def _common(subject: Subject, module: Any) -> dict[str, Any]:
    block, info = module.blocks[0], subject.encoder.info
    name = activation_name(block.mlp.act)
    if name not in ACTIVATIONS:
        raise refused(subject, f"Its activation is {name}.")
    size = list(subject.preprocessing.size)
    return {
        "hidden_size": info.width,
        "num_hidden_layers": info.depth,
        "num_attention_heads": info.heads,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": info.patch_size,
        "num_channels": len(info.mean),
        "hidden_act": ACTIVATIONS[name],
        "layer_norm_eps": float(block.norm1.eps),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _vit(subject: Subject, module: Any, state: Mapping[str, Tensor], head: Head | None) -> HfModel:
    config = {
        **_common(subject, module),
        "intermediate_size": module.blocks[0].mlp.fc1.out_features,
        "qkv_bias": module.blocks[0].attn.qkv.bias is not None,
    }
    found = _embedded(state) | _blocks(state, _BLOCK, subject.encoder.info.depth)
    if module.cls_token is None:  # IJepa's classifier takes the mean
        return _model("ijepa", "IJepa", config, found, head, {})
    return _model("vit", "ViT", config, found, head, {} if head else {"add_pooling_layer": False})


def _dinov2(subject: Subject, module: Any, state: Mapping[str, Tensor], head: Head | None) -> HfModel:
    """Where the model has no layer scale it is one; the classifier's input is class token and mean side by side."""
    common, block = _common(subject, module), module.blocks[0]
    gated = type(block.mlp).__name__ != "Mlp"
    width, depth, registers = common["hidden_size"], common["num_hidden_layers"], module.num_reg_tokens
    hidden = block.mlp.fc1.out_features
    ratio = _gated_ratio(hidden // 2, width) if gated else hidden / width
    if not float(ratio).is_integer():
        raise refused(subject, f"Its MLP is {hidden} wide, and Dinov2's is a whole multiple of {width}.")
    config = {**common, "mlp_ratio": int(ratio), "use_swiglu_ffn": gated}
    config |= {"qkv_bias": block.attn.qkv.bias is not None, "layerscale_value": 1.0, "drop_path_rate": 0.0}
    names = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"} if gated else {}
    found = _embedded(state) | _blocks(state, names, depth, "layer_scale{}.lambda1")
    for number in range(depth):
        for which in (1, 2):
            found.setdefault(f"encoder.layer.{number}.layer_scale{which}.lambda1", torch.ones(width))
    found["embeddings.mask_token"] = torch.zeros(1, width)
    if registers:
        config["num_register_tokens"] = registers
        found["embeddings.register_tokens"] = state["reg_token"]
    if head is not None:
        zero = torch.zeros_like(head.weight)
        both = [head.weight, zero] if head.pool == "token" else [zero, head.weight]
        if registers and head.pool == "avg":
            raise refused(subject, "Dinov2WithRegisters has the registers in its mean.")
        head = Head(head.pool, head.norms, torch.cat(both, 1), head.bias, None)
    prefix = "dinov2_with_registers" if registers else "dinov2"
    return _model(prefix, "Dinov2WithRegisters" if registers else "Dinov2", config, found, head, {})


def _gated_ratio(hidden: int, width: int) -> float:
    """The whole ``mlp_ratio`` from which Dinov2 makes this width: its two thirds, rounded up to a multiple of 8."""
    fitting = (ratio for ratio in range(1, 17) if (int(width * ratio * 2 / 3) + 7) // 8 * 8 == hidden)
    return float(next(fitting, 1.5 * hidden / width))


def _beit(subject: Subject, module: Any, state: Mapping[str, Tensor], head: Head | None) -> HfModel:
    """Without a key bias, which a softmax over keys does not see."""
    block, mean = module.blocks[0], head is not None
    if head is not None and (head.norms != (False, True) or head.pool != "avg"):
        raise refused(subject, "Its classifier has no norm after the mean of the tokens, as Beit's has.")
    if head is None and not _normed(module.norm):
        raise refused(subject, "Its final tokens have no norm.")
    scaled = "blocks.0.gamma_1" in state or "blocks.0.ls1.gamma" in state
    config = {
        **_common(subject, module),
        "intermediate_size": block.mlp.fc1.out_features,
        "layer_scale_init_value": 1.0 if scaled else 0.0,
        "use_absolute_position_embeddings": state.get("pos_embed") is not None,
        "use_relative_position_bias": "blocks.0.attn.relative_position_bias_table" in state,
        "use_shared_relative_position_bias": "rel_pos_bias.relative_position_bias_table" in state,
        "use_mean_pooling": mean,
        "use_mask_token": False,
        "drop_path_rate": 0.0,
    }
    found = _embedded(state) | _blocks(state, _BLOCK, subject.encoder.info.depth, "lambda_{}")
    found = {key: value for key, value in found.items() if not key.endswith("attention.key.bias")}
    if (table := state.get("rel_pos_bias.relative_position_bias_table")) is not None:
        found["encoder.relative_position_bias.relative_position_bias_table"] = table
    if mean:
        found = {key: value for key, value in found.items() if not key.startswith("layernorm.")}
    if head is not None and head.after is not None:
        found |= {f"pooler.layernorm.{key}": value for key, value in head.after.state_dict().items()}
    return _model("beit", "Beit", config, found, head, {})


def _model(
    prefix: str,
    name: str,
    config: dict[str, Any],
    state: dict[str, Tensor],
    head: Head | None,
    arguments: dict[str, Any],
) -> HfModel:
    if head is None:
        return HfModel(f"{name}Model", {"model_type": prefix, **config}, state, arguments)
    found = {f"{prefix}.{key}": value for key, value in state.items()}
    found |= {"classifier.weight": head.weight, "classifier.bias": head.bias}
    return HfModel(f"{name}ForImageClassification", {"model_type": prefix, **config}, found, arguments)


# --- keys -------------------------------------------------------------------------------------------------


def _embedded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    return {theirs: state[mine] for mine, theirs in names.items() if mine in state}


def _blocks(state: Mapping[str, Tensor], names: Mapping[str, str], depth: int, scale: str = "") -> dict[str, Tensor]:
    """Every block under ``encoder.layer.N``: queries, keys and values apart, the rest by ``names``."""
    found: dict[str, Tensor] = {}
    for number in range(depth):
        mine, theirs = f"blocks.{number}.", f"encoder.layer.{number}."
        of_block = {key.removeprefix(mine): value for key, value in state.items() if key.startswith(mine)}
        qkv = [("weight", of_block.pop("attn.qkv.weight").chunk(3))]
        if (bias := of_block.pop("attn.qkv.bias", None)) is not None:
            qkv.append(("bias", bias.chunk(3)))
        for which, parts in qkv:
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{theirs}attention.attention.{name}.{which}"] = part
        for key, value in of_block.items():
            found[theirs + _in_block(key, names, scale)] = value
    return found


def _in_block(key: str, names: Mapping[str, str], scale: str) -> str:
    fixed = {
        "attn.q_bias": "attention.attention.query.bias",
        "attn.v_bias": "attention.attention.value.bias",
        "attn.proj.weight": "attention.output.dense.weight",
        "attn.proj.bias": "attention.output.dense.bias",
        "attn.relative_position_bias_table": (
            "attention.attention.relative_position_bias.relative_position_bias_table"
        ),
    }
    if key in fixed:
        return fixed[key]
    if key in ("gamma_1", "gamma_2", "ls1.gamma", "ls2.gamma"):
        return scale.format("1" if "1" in key else "2")
    stem, _, last = key.rpartition(".")
    return f"{names.get(stem, stem)}.{last}"
