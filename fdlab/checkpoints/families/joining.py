"""What several layouts need beyond new names: q, k, v as one matrix, another order of a merged patch, the last norm."""

from __future__ import annotations

import re

import torch
from torch import Tensor

_PARTS = re.compile(r"(.*\.attn)\.(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_ORDER = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}
_TAP = re.compile(r"norm(\d+)\.(weight|bias)")
_MERGE = re.compile(r".*\.downsample\.(reduction|norm)\.(weight|bias)")


def join(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k, v as one matrix; without a key bias (BEiT) the biases stay apart as ``q_bias`` and ``v_bias``."""
    joined: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[int, Tensor]] = {}
    for key, value in state.items():
        match = _PARTS.fullmatch(key)
        if match:
            parts.setdefault((match[1], match[3]), {})[_ORDER[match[2]]] = value
        else:
            joined[key] = value
    for (stem, kind), found in parts.items():
        if set(found) == {0, 1, 2}:
            joined[f"{stem}.qkv.{kind}"] = torch.cat([found[0], found[1], found[2]])
        else:
            joined |= {f"{stem}.{'qkv'[place]}_{kind}": value for place, value in found.items()}
    return joined


def packed_gate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gate and value of a SwiGLU as one layer, the gate first, where they stand apart (transformers 5 in memory)."""
    packed = dict(state)
    for key in state:
        if ".mlp.fc1_g." in key and (other := key.replace("fc1_g", "fc1_x")) in state:
            packed[key.replace("fc1_g", "fc1")] = torch.cat([packed.pop(key), packed.pop(other)])
    return packed


def plain_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier over something else than one width (DINOv2: class token and mean) is left out."""
    width = state["patch_embed.proj.weight"].shape[0]
    if "head.weight" in state and state["head.weight"].shape[-1] != width:
        return {key: value for key, value in state.items() if not key.startswith("head.")}
    return state


def last_tap_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Dense files have ``normK`` for each tapped stage; the last one stands where a classifier's ``norm`` does."""
    places = [int(match[1]) for match in map(_TAP.fullmatch, state) if match]
    if not places:
        return state
    last = max(places)
    kept = {key: value for key, value in state.items() if not _TAP.fullmatch(key)}
    return kept | {f"norm.{kind}": state[f"norm{last}.{kind}"] for kind in ("weight", "bias")}


def unfold_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Patch merging after ``nn.Unfold`` (channel, then row and column) in Swin's order (column, row, channel).

    The last axis counts channel * 4 + 2 * row + column; wanted is (2 * column + row) * channels + channel.
    """
    moved = dict(state)
    for key, value in state.items():
        match = _MERGE.fullmatch(key)
        if not match:
            continue
        merged = state[f"{key[: match.start(1)]}reduction.weight"].shape[-1]
        if value.shape[-1] == merged and merged % 4 == 0:  # Swin V2's norm comes after the reduction
            parts = value.reshape(*value.shape[:-1], merged // 4, 4)
            moved[key] = parts[..., [0, 2, 1, 3]].transpose(-1, -2).reshape(value.shape)
    return moved
