"""Other weights, the same function: the maps that show which flatness measures are about the function at all.

Each map gives a copy of the model. All but ``heads_mixed`` rescale single weights; that one multiplies queries, keys,
values and their projection by an invertible matrix inside each head. MLPs have none: GELU is not homogeneous.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import blocks_of, identity
from fdlab.encoders.reparametrise import AttentionParts, attention_parts, norm_pairs, scale_heads
from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.randomness import seed_for

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder

FACTOR = 4.0  # a power of two: the outputs of the first three maps stay equal up to the last bit


def _queries(block: nn.Module, _seed: int) -> bool:
    """Queries x 4, keys / 4."""
    return _with_parts(block, lambda parts: scale_heads(parts, query=FACTOR))


def _values(block: nn.Module, _seed: int) -> bool:
    """Values x 4, their projection / 4."""
    return _with_parts(block, lambda parts: scale_heads(parts, value=FACTOR))


def _norms(block: nn.Module, _seed: int) -> bool:
    """Gain and shift of each LayerNorm x 4, the layer behind it / 4."""
    return _scaled_norms(block, lambda norm, _place: torch.full_like(norm.weight, FACTOR))


def _channels(block: nn.Module, seed: int) -> bool:
    """The same, each channel by its own factor exp(N(0, 1))."""

    def factors(norm: nn.LayerNorm, place: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed_for(seed, "channels", place))
        return torch.randn(norm.weight.shape, generator=generator).exp().to(norm.weight)

    return _scaled_norms(block, factors)


def _mixed(block: nn.Module, seed: int) -> bool:
    """An invertible matrix inside each head: M on queries and values, its inverse on keys and the projection."""

    def mix(parts: AttentionParts) -> None:
        heads, width = parts.query.shape[:2]
        generator = torch.Generator().manual_seed(seed_for(seed, "heads mixed"))
        draw = torch.randn(2, heads, width, width, generator=generator, dtype=torch.float64)
        matrices = (torch.eye(width, dtype=torch.float64) + 0.7 * draw / width**0.5).to(parts.query.device)
        for matrix, weight, bias, other, other_bias in (
            (matrices[0], parts.query, parts.query_bias, parts.key, parts.key_bias),
            (matrices[1], parts.value, parts.value_bias, None, None),
        ):
            inverse = torch.linalg.inv(matrix)
            _multiply(matrix, weight, bias)
            if other is not None:  # q' = M q, k' = M^-T k: the logits q . k stay
                _multiply(inverse.transpose(1, 2), other, other_bias)
            else:  # v' = M v, proj' = proj M^-1
                parts.proj.copy_(torch.einsum("chd,hde->che", parts.proj.double(), inverse).to(parts.proj))

    return _with_parts(block, mix)


REPARAMETRISATIONS: dict[str, Callable[[nn.Module, int], bool]] = {
    "queries_keys": _queries,
    "values_projection": _values,
    "norms": _norms,
    "channels": _channels,
    "heads_mixed": _mixed,
}


@torch.no_grad()
def reparametrised(encoder: Encoder, name: str, seed: int = 0) -> Encoder:
    """A copy with other weights and the same function (up to rounding).

    Args:
        name: one of ``REPARAMETRISATIONS``.

    Raises:
        FdlabError: code 3, no block of this model allows the map.
    """
    from fdlab.encoders.encoder import Encoder

    module = copy.deepcopy(encoder.module)
    touched = [
        REPARAMETRISATIONS[name](block, seed_for(seed, "block", place)) for place, block in enumerate(blocks_of(module))
    ]
    if not any(touched):
        raise FdlabError(
            f"This model ({encoder.info.family}) has no weights for the map {name}.",
            "Its attention has norms or gates inside the heads, or its norms stand elsewhere.",
            "Leave the control out for this model.",
            code=NOT_UNDERSTOOD,
        )
    info = replace(encoder.info, options=(*encoder.info.options, name))
    anatomy = replace(encoder.anatomy, live=False)
    return Encoder(module, replace(info, sha256=identity(module, info)), encoder.call, anatomy)


def _with_parts(block: nn.Module, change: Callable[[AttentionParts], None]) -> bool:
    attention = getattr(block, "attn", None)
    parts = None if attention is None else attention_parts(attention)
    if parts is None:
        return False
    change(parts)
    return True


def _scaled_norms(block: nn.Module, factors: Callable[[nn.LayerNorm, int], Tensor]) -> bool:
    pairs = norm_pairs(block)
    for place, (norm, layer) in enumerate(pairs):
        factor = factors(norm, place)
        norm.weight.mul_(factor)
        if norm.bias is not None:
            norm.bias.mul_(factor)
        layer.weight.div_(factor)
    return bool(pairs)


def _multiply(matrix: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Every head's rows (heads, d, C) and bias (heads, d) times its matrix (heads, d, d), in double."""
    weight.copy_((matrix @ weight.double()).to(weight))
    if bias is not None:
        bias.copy_((matrix @ bias.double()[..., None])[..., 0].to(bias))
