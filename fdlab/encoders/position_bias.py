"""Learnt biases of relative position: as the softmax sees them, aligned for the kernel, a table for every block.

Biases are built by the model's own methods, so that shared tables, tables of a block and networks that make a table
(SwinV2, relpos-MLP) all come out as what each block adds to its logits. Rotary and absolute positions are no such bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_rel import RelPosBias
from timm.models import beit
from torch import Tensor, nn

from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.encoder import TimmCall, blocks_of
from fdlab.encoders.student import TABLE, seeded, stock_state
from fdlab.errors import USAGE, FdlabError

ROW = 8  # numbers
# Of each stock class: what ties the table, the argument values of the untied form, where both tables stand.
CLASSES = {
    "Beit": ({"use_shared_rel_pos_bias": False, "use_rel_pos_bias": True}, "rel_pos_bias", "attn"),
    "VisionTransformerRelPos": ({"shared_rel_pos": False}, "shared_rel_pos", "attn.rel_pos"),
}


def position_biases(module: nn.Module) -> dict[int, Tensor]:
    """{block: (heads, T, T)}, rows are queries; only blocks that have a learnt bias; T with prefix tokens.

    Empty for a network that timm's names do not describe: where its biases enter is not known.
    T counts one window's tokens in windowed models. Tensors are float32 and without gradients.
    """
    if anatomy_of(module).order_of_parts is not None:
        return {}
    shared = getattr(module, "rel_pos_bias", None)  # BEiT: added to a block's own
    whole: Any = shared() if isinstance(shared, nn.Module) else None
    replaced = getattr(module, "shared_rel_pos", None)  # relpos: where a block has none
    biases: dict[int, Tensor] = {}
    with torch.no_grad():
        for index, block in enumerate(blocks_of(module)):
            bias = _block_bias(block.attn)
            if bias is None and isinstance(replaced, nn.Module):
                bias = replaced.get_bias()  # type: ignore[operator]
            parts = [part for part in (bias, whole) if part is not None]
            if parts:
                biases[index] = torch.stack([part.detach().float().reshape(part.shape[-3:]) for part in parts]).sum(0)
    return biases


def _block_bias(attention: Any) -> Tensor | None:
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


def aligned(bias: Tensor) -> Tensor:
    """(1, heads, N, N) -> the same values with rows of a multiple of 8 numbers, in autocast's type where it is on."""
    kind = bias.device.type
    if torch.is_autocast_enabled(kind):
        bias = bias.to(torch.get_autocast_dtype(kind))
    count = bias.shape[-1]
    return F.pad(bias, (0, -count % ROW))[..., :count] if count % ROW else bias


def align_bias(module: nn.Module) -> int:
    """Makes stock BEiT and relative-position classes below ``module`` build their biases aligned; returns how many.

    On CUDA only the memory-efficient kernel gives a mask's gradient, and it wants rows that begin at multiples of 8
    numbers and the queries' type. Otherwise every block casts and pads the bias again; here it is made so where it is
    built, once a step for a bias that the blocks share. The values, and what is saved, stay the same.
    """
    count = 0
    for owner in module.modules():
        name = _maker(owner)
        if name is not None and name not in vars(owner):
            setattr(owner, name, _Aligned(getattr(owner, name)))
            count += 1
    return count


def _maker(owner: nn.Module) -> str | None:
    """The method that builds this module's bias."""
    if isinstance(owner, RelPosBias):
        return "get_bias"
    if isinstance(owner, beit.RelativePositionBias):
        return "forward"
    if isinstance(owner, beit.Attention) and owner.window_size:
        return "_get_rel_pos_bias"
    return None


class _Aligned:
    """A method whose result is aligned; a deep copy of its module has its own."""

    def __init__(self, method: Callable[[], Tensor]) -> None:
        self.method = method

    def __call__(self) -> Tensor:
        return aligned(self.method())


def untie_bias(module: nn.Module, call: TimmCall | None) -> tuple[nn.Module, TimmCall]:
    """The same function with a copy of the shared table in every block; returns it and its timm call.

    Raises:
        FdlabError: code 2, the model has no shared table.
    """
    name = type(module).__name__
    changes, shared, place = CLASSES.get(name, ({}, "", ""))
    state = stock_state(module)
    table = state.pop(f"{shared}.{TABLE}", None)
    if call is None or table is None:
        raise FdlabError(
            f"This {name} has no relative bias table that its blocks share.",
            "There is nothing to untie.",
            "Set classify.untie_bias=false.",
            code=USAGE,
        )
    for index in range(len(blocks_of(module))):
        state[f"blocks.{index}.{place}.{TABLE}"] = table.clone()
    call = replace(call, kwargs={**call.kwargs, **changes})
    with seeded(0):
        untied = call.make()
    missing, unexpected = untied.load_state_dict(state, strict=False)
    held = {key for key, _ in untied.named_parameters()}
    if held & set(missing) or [key for key in unexpected if not key.startswith(f"{shared}.")]:
        raise FdlabError(f"The table of this {name} could not be untied.", f"Keys: {missing}, {unexpected}.")
    return untied.to(table.device), call
