"""The learnt biases of relative position, as each block adds them to its logits.

They are built by the model's own methods, so that shared tables, tables of a block and networks that make a table
(SwinV2, relpos-MLP) all come out as what the softmax sees. Rotary and absolute positions are no such bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.encoder import blocks_of


def position_biases(module: nn.Module) -> dict[int, Tensor]:
    """{block: (heads, T, T)}, rows are queries; only blocks that have a learnt bias; T with prefix tokens.

    T counts one window's tokens in windowed models. Tensors are float32 and without gradients.
    """
    shared = getattr(module, "rel_pos_bias", None)  # BEiT: added to a block's own
    whole: Any = shared() if isinstance(shared, nn.Module) else None
    replaced = getattr(module, "shared_rel_pos", None)  # relpos: where a block has none
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for place, block in enumerate(blocks_of(module)):
            own = _own(block.attn)
            if own is None and isinstance(replaced, nn.Module):
                own = replaced.get_bias()  # type: ignore[operator]
            parts = [part for part in (own, whole) if part is not None]
            if parts:
                found[place] = torch.stack([part.detach().float().reshape(part.shape[-3:]) for part in parts]).sum(0)
    return found


def _own(attention: Any) -> Tensor | None:
    """(heads, T, T) with or without a leading 1, or None: this block has no bias of its own."""
    if getattr(attention, "rel_pos", None) is not None:
        return attention.rel_pos.get_bias()
    if getattr(attention, "cpb_mlp", None) is not None:
        return _continuous(attention)
    if getattr(attention, "relative_position_bias_table", None) is not None:
        return attention._get_rel_pos_bias()
    return None


def _continuous(attention: Any) -> Tensor:
    """SwinV2 (Liu et al. 2022): 16 sigmoid(network(log-spaced offsets)); timm builds it inside its forward pass."""
    table = attention.cpb_mlp(attention.relative_coords_table).view(-1, attention.num_heads)
    tokens = attention.window_size[0] * attention.window_size[1]
    pairs = table[attention.relative_position_index.view(-1)].view(tokens, tokens, -1)
    return 16 * pairs.permute(2, 0, 1).sigmoid()
