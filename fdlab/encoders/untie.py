"""A relative bias table shared by the blocks becomes one table a block, as the paper's fine-tuning has it."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.student import TABLE, seeded, stock_state
from fdlab.errors import USAGE, FdlabError

# Of each stock class: what ties the table, the argument values of the untied form, where both tables stand.
CLASSES = {
    "Beit": ({"use_shared_rel_pos_bias": False, "use_rel_pos_bias": True}, "rel_pos_bias", "attn"),
    "VisionTransformerRelPos": ({"shared_rel_pos": False}, "shared_rel_pos", "attn.rel_pos"),
}


def untie_bias(module: nn.Module, call: TimmCall | None) -> tuple[nn.Module, TimmCall]:
    """The same function with a copy of the shared table in every block; returns it and its timm call.

    Raises:
        FdlabError: code 2, the model has no shared table.
    """
    name = type(module).__name__
    changes, shared, own = CLASSES.get(name, ({}, "", ""))
    state = stock_state(module)
    table = state.pop(f"{shared}.{TABLE}", None)
    if call is None or table is None:
        raise FdlabError(
            f"This {name} has no relative bias table that its blocks share.",
            "There is nothing to untie.",
            "Set classify.untie_bias=false.",
            code=USAGE,
        )
    for index in range(len(module.blocks)):
        state[f"blocks.{index}.{own}.{TABLE}"] = table.clone()
    call = replace(call, kwargs={**call.kwargs, **changes})
    with seeded(0):
        untied = call.make()
    missing, unexpected = untied.load_state_dict(state, strict=False)
    held = {key for key, _ in untied.named_parameters()}
    if held & set(missing) or [key for key in unexpected if not key.startswith(f"{shared}.")]:
        raise FdlabError(f"The table of this {name} could not be untied.", f"Keys: {missing}, {unexpected}.")
    return untied.to(table.device), call
