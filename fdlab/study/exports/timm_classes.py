"""Which class of timm, with which arguments and weights, computes a model with its classifier.

A fine-tuning's head is: the encoder's final norm (or not), the mean of the patch tokens, a norm (or not), a linear
layer. Norms with fixed statistics are part of the linear layer; of the two layer norms most classes of timm hold one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.export import full_call
from fdlab.encoders.encoder import TimmCall, activation_name
from fdlab.encoders.student import stock_state
from fdlab.errors import USAGE, FdlabError
from fdlab.study.classifier import PooledHead
from fdlab.study.exports.subject import Subject
from fdlab.tasks.classify import Standardise

HEADS = ("head.", "head_dist.", "fc_norm.")
# Of each class: the arguments of (norm on the tokens, norm after the mean); what is absent cannot be said to it.
Placed = Mapping[tuple[bool, bool], Mapping[str, Any]]
PLACES: Mapping[str, Placed] = {
    "VisionTransformer": {
        (True, False): {"fc_norm": False, "final_norm": True},
        (False, True): {"fc_norm": True, "final_norm": True},
        (False, False): {"fc_norm": False, "final_norm": False},
    },
    "VisionTransformerRelPos": {(True, False): {"fc_norm": False}, (False, True): {"fc_norm": True}},
    "Beit": {(True, False): {"use_fc_norm": False}, (False, True): {"use_fc_norm": True}},
    "Eva": {
        (tokens, mean): {"use_post_transformer_norm": tokens, "use_fc_norm": mean}
        for tokens in (True, False)
        for mean in (True, False)
    },
    "SwinTransformer": {(True, False): {}},
    "SwinTransformerV2": {(True, False): {}},
}


def forms(subject: Subject) -> Iterator[tuple[TimmCall, dict[str, Tensor]]]:
    """(class with its arguments, weights under its keys), the likeliest first; whether they are right is tried.

    Raises:
        FdlabError: code 2, no class of timm can hold this model; the words say why.
    """
    encoder = subject.encoder
    kind, path = type(encoder.module).__name__, type(encoder.module).__module__
    if not path.startswith("timm."):
        raise refused(subject, f"It is a {kind}, which is none of timm's classes.")
    call, state = full_call(encoder, subject.name), stock_state(encoder.module)
    if subject.classifier and subject.classifier.pooled is None:
        yield call, state
        return
    state = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    if subject.classifier is None or subject.classifier.pooled is None:
        yield from _without_head(encoder.module, call, state)
        return
    head = subject.classifier.pooled
    state = {key: value for key, value in state.items() if not key.startswith("attn_pool.")}
    if kind == "VisionTransformerDistilled":  # it pools by its two tokens alone
        kind, call = "VisionTransformer", with_register(encoder.module)
        state["reg_token"] = state.pop("dist_token")
    normed = head.final_norm and any(True for _ in encoder.module.get_submodule("norm").parameters())
    places = normed, isinstance(head.norm, nn.LayerNorm)
    weights = head_state(encoder.module, head, places)
    state = {key: value for key, value in state.items() if not key.startswith("norm.")} | weights
    known = PLACES.get(kind, {})
    if places in known:
        yield _changed(call, {"num_classes": len(subject.classes), "global_pool": "avg", **known[places]}), state
    elif type(encoder.module).__name__ == "VisionTransformer" and (written := as_eva(encoder.module, places)):
        yield (
            _changed(written, {"num_classes": len(subject.classes)}),
            eva_state(state, len(encoder.module.blocks)),  # type: ignore[arg-type]
        )
    else:
        norms = {
            (True, True): "one norm before and one after the mean of the tokens",
            (False, False): "no norm at all",
            (True, False): "its norm before the mean of the tokens",
            (False, True): "its norm after the mean of the tokens",
        }
        raise refused(subject, f"Its classifier has {norms[places]}, and timm's {kind} cannot be told so.")


def refused(subject: Subject, why: str) -> FdlabError:
    """What cannot be written for timm, with what can be used."""
    return FdlabError(
        f"timm has no class that computes {subject.name}.",
        why,
        f"Use --to torch or --to onnx, which write any model{subject.encoder_alone}.",
        code=USAGE,
    )


def _without_head(
    module: nn.Module, call: TimmCall, state: dict[str, Tensor]
) -> Iterator[tuple[TimmCall, dict[str, Tensor]]]:
    """The encoder: its call gives the mean of the final patch tokens; where the class pools otherwise, as it is."""
    places = PLACES.get(type(module).__name__, {}).get((True, False))
    if places is not None and any(True for _ in module.get_submodule("norm").parameters()):
        yield _changed(call, {"num_classes": 0, "global_pool": "avg", **places}), state
    yield _changed(call, {"num_classes": 0}), state


def _changed(call: TimmCall, changes: Mapping[str, Any]) -> TimmCall:
    return replace(call, kwargs={**call.kwargs, **changes})


def head_state(module: nn.Module, head: PooledHead, places: tuple[bool, bool]) -> dict[str, Tensor]:
    """The head under timm's keys: ``norm``, ``fc_norm`` and ``head`` (of a Swin ``head.fc``)."""
    last = "head.fc" if type(module).__name__.startswith("Swin") else "head"
    weight, bias = folded(head)
    state = {f"{last}.weight": weight, f"{last}.bias": bias}
    for wanted, name, part in ((places[0], "norm", module.get_submodule("norm")), (places[1], "fc_norm", head.norm)):
        if wanted:
            state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return state


def folded(head: PooledHead) -> tuple[Tensor, Tensor]:
    """(weight, bias) with a norm of fixed statistics in them: W (x - m) / s + b = (W / s) x + b - (W / s) m."""
    weight, bias = head.linear.weight.detach().cpu().double(), head.linear.bias.detach().cpu().double()
    if isinstance(head.norm, Standardise):
        mean, sd = head.norm.mean, head.norm.sd
    elif isinstance(head.norm, nn.BatchNorm1d):
        kept = head.norm.state_dict()
        mean, sd = kept["running_mean"], (kept["running_var"].double() + head.norm.eps).sqrt()
    else:
        return weight.float(), bias.float()
    weight = weight / sd.cpu().double()
    return weight.float(), (bias - weight @ mean.cpu().double()).float()


# --- a plain ViT as timm's Eva, which may have a norm before and after the mean ----------------------------


def as_eva(module: Any, places: tuple[bool, bool]) -> TimmCall | None:
    """The same plain ViT as timm's class Eva; None where that class lacks a part of it."""
    block = module.blocks[0]
    plain = (
        module.pos_embed is not None
        and not module.dynamic_img_size
        and module.attn_pool is None
        and isinstance(block.attn.q_norm, nn.Identity)
        and isinstance(block.attn.norm, nn.Identity)
        and type(block.mlp).__name__ == "Mlp"
        and isinstance(block.mlp.norm, nn.Identity)
        and activation_name(block.mlp.act) == "gelu"
        and type(block.norm1).__name__.startswith("LayerNorm")
    )
    if not plain:
        return None
    kwargs = {
        **_sizes(module),
        "num_reg_tokens": module.num_reg_tokens,
        "use_pre_transformer_norm": not isinstance(module.norm_pre, nn.Identity),
        "global_pool": "avg",
        **PLACES["Eva"][places],
    }
    return TimmCall("timm.models.eva.Eva", kwargs, float(block.norm1.eps))


def with_register(module: Any) -> TimmCall:
    """DeiT's ViT with a distillation token as a plain one with a register: both stand behind the class token."""
    return TimmCall(
        "timm.models.vision_transformer.VisionTransformer",
        {**_sizes(module), "reg_tokens": 1},
        float(module.blocks[0].norm1.eps),
    )


def _sizes(module: Any) -> dict[str, Any]:
    """A plain ViT's sizes as it has them, under the names that its class and Eva share."""
    block = module.blocks[0]
    return {
        "img_size": tuple(module.patch_embed.img_size),
        "patch_size": module.patch_embed.patch_size[0],
        "in_chans": module.patch_embed.proj.in_channels,
        "embed_dim": module.embed_dim,
        "depth": len(module.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / module.embed_dim,
        "qkv_bias": block.attn.qkv.bias is not None,
        "init_values": None if isinstance(block.ls1, nn.Identity) else 1.0,
        "class_token": module.cls_token is not None,
        "no_embed_class": module.no_embed_class,
    }


def eva_state(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """A plain ViT's weights under Eva's keys. The keys' bias is left out: a softmax over keys does not see it."""
    found = dict(state)
    for number in range(depth):
        before = f"blocks.{number}."
        if (bias := found.pop(f"{before}attn.qkv.bias", None)) is not None:
            q, _, v = bias.chunk(3)
            found |= {f"{before}attn.q_bias": q, f"{before}attn.v_bias": v}
        for mine, theirs in (("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2")):
            if f"{before}{mine}" in found:
                found[before + theirs] = found.pop(before + mine)
    return {key: value if torch.is_tensor(value) else torch.as_tensor(value) for key, value in found.items()}
