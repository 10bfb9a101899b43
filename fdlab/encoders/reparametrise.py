"""Maps that change a model's weights and leave its function alone: what no measure of flatness should react to.

``balanced`` picks one form out of all those that the two commonest maps reach (a scale moved between queries and
keys, values and their projection, or a LayerNorm and the layer behind it), so that two models can be looked at in
the same form. An invertible map inside a head also keeps the function and is not taken out by it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import blocks_of, identity
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


@dataclass
class AttentionParts:
    """Views into one attention layer's weights: changing them in place changes the layer.

    ``query``, ``key``, ``value`` (heads, d, C), their biases (heads, d) or None, ``proj`` (C, heads, d).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    proj: Tensor


def attention_parts(attention: nn.Module) -> AttentionParts | None:
    """The parts of a layer with one fused qkv; None where norms or gates inside the heads forbid moving scales."""
    qkv, proj = getattr(attention, "qkv", None), getattr(attention, "proj", None)
    inside = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm")]
    plain = all(part is None or isinstance(part, nn.Identity) for part in inside)
    gated = getattr(attention, "gate", None) is not None or getattr(attention, "logit_scale", None) is not None
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear) or not plain or gated:
        return None
    heads = int(attention.num_heads)  # type: ignore[arg-type]
    query, key, value = qkv.weight.detach().view(3, heads, -1, qkv.in_features)
    if qkv.bias is not None:
        q, k, v = (b for b in qkv.bias.detach().view(3, heads, -1))
    else:  # BEiT's layout: the key has none
        q_bias, v_bias = (getattr(attention, name, None) for name in ("q_bias", "v_bias"))
        q, k, v = (None if b is None else b.detach().view(heads, -1) for b in (q_bias, None, v_bias))
    return AttentionParts(query, key, value, q, k, v, proj.weight.detach().view(proj.out_features, heads, -1))


def scale_heads(parts: AttentionParts, query: Tensor | float = 1.0, value: Tensor | float = 1.0) -> None:
    """Queries times ``query`` and keys by it, values times ``value`` and their projection by it: (heads,) or one."""
    heads = parts.query.shape[0]
    q, v = (
        torch.as_tensor(x, dtype=parts.query.dtype, device=parts.query.device).expand(heads) for x in (query, value)
    )
    for weight, bias, factor in (
        (parts.query, parts.query_bias, q),
        (parts.key, parts.key_bias, 1 / q),
        (parts.value, parts.value_bias, v),
    ):
        weight.mul_(factor[:, None, None])
        if bias is not None:
            bias.mul_(factor[:, None])
    parts.proj.div_(v[:, None])


def norm_pairs(block: nn.Module) -> list[tuple[nn.LayerNorm, nn.Linear]]:
    """(LayerNorm, the one linear layer that reads it) of a pre-norm block: norm1 and qkv, norm2 and fc1."""
    attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
    pairs = [
        (getattr(block, "norm1", None), getattr(attention, "qkv", None)),
        (getattr(block, "norm2", None), getattr(mlp, "fc1", None)),
    ]
    readable = getattr(attention, "gate", None) is None
    return [
        (norm, layer)
        for norm, layer in pairs
        if isinstance(norm, nn.LayerNorm) and norm.elementwise_affine and isinstance(layer, nn.Linear) and readable
    ]


@torch.no_grad()
def fold_norm(norm: nn.LayerNorm, layer: nn.Linear, attention: nn.Module | None = None) -> None:
    """The norm's gain and shift move into the layer behind it, which must be its only reader.

    ``attention``: the owner of a qkv layer without a bias of its own (BEiT's layout). The shift of its keys is
    left out: it adds the same to every logit of a query, and softmax does not see it.
    """
    separate = getattr(attention, "q_bias", None)
    if layer.bias is None and separate is None:  # nowhere for the shift to go but through the gain
        if norm.bias is not None and (norm.weight == 0).any():
            return
        layer.weight.mul_(norm.weight)
        if norm.bias is not None:
            norm.bias.div_(norm.weight)
        norm.weight.fill_(1.0)
        return
    shift = torch.zeros(layer.out_features).to(layer.weight) if norm.bias is None else layer.weight @ norm.bias
    layer.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)
    if norm.bias is not None:
        norm.bias.zero_()
    if layer.bias is not None:
        layer.bias.add_(shift)
    else:
        query, _, value = shift.chunk(3)
        attention.q_bias.add_(query)  # type: ignore[union-attr, operator]
        attention.v_bias.add_(value)  # type: ignore[union-attr, operator]


@torch.no_grad()
def balance_heads(parts: AttentionParts) -> None:
    """Equal norms, head by head, of queries and keys and of values and their projection; biases counted in."""

    def norm(weight: Tensor, bias: Tensor | None = None) -> Tensor:
        squares = weight.double().square().sum((1, 2))
        return (squares if bias is None else squares + bias.double().square().sum(1)).sqrt()

    pairs = [
        (norm(parts.query, parts.query_bias), norm(parts.key, parts.key_bias)),
        (norm(parts.value, parts.value_bias), norm(parts.proj.transpose(0, 1))),
    ]
    query, value = (torch.where((a > 0) & (b > 0), (b / a).sqrt(), 1.0) for a, b in pairs)
    scale_heads(parts, query.to(parts.query.dtype), value.to(parts.query.dtype))


def balance_refusal(encoder: Encoder) -> FdlabError | None:
    """Why there is no balanced form of this model, or None: where no layer has a form that the maps are known for."""
    for block in blocks_of(encoder.module):
        attention = getattr(block, "attn", None)
        if norm_pairs(block) or (attention is not None and attention_parts(attention) is not None):
            return None
    return FdlabError(
        f"The balanced form of {encoder.info.title or type(encoder.module).__name__} is not known.",
        "None of its blocks has timm's norm1, attn.qkv, attn.proj, norm2 and mlp.fc1.",
        "Leave it out (--part whole), or name these layers of your blocks so.",
        code=NOT_UNDERSTOOD,
    )


def balanced(encoder: Encoder) -> tuple[Encoder, str]:
    """A copy of the model in its balanced form, and a sentence on what was balanced.

    The function is the same up to rounding; the final norm and layer scales are left as they are.
    """
    from fdlab.encoders.encoder import Encoder

    module = copy.deepcopy(encoder.module)
    folded = heads = 0
    for block in blocks_of(module):
        attention = getattr(block, "attn", None)
        for norm, layer in norm_pairs(block):
            fold_norm(norm, layer, attention if layer is getattr(attention, "qkv", None) else None)
            folded += 1
        parts = None if attention is None else attention_parts(attention)
        if parts is not None:
            balance_heads(parts)
            heads += parts.query.shape[0]
    info = replace(encoder.info, options=(*encoder.info.options, "balanced"))
    anatomy = replace(encoder.anatomy, live=False)
    copied = Encoder(module, replace(info, sha256=identity(module, info)), encoder.call, anatomy)
    return copied, f"{folded} LayerNorms folded, {heads} heads balanced"
