"""The optimiser: parameter groups with layer-wise decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.encoder import blocks_of
from fdlab.encoders.student import TABLE
from fdlab.engine.settings import OptimSettings

STEM = ("patch_embed", "cls_token", "pos_embed", "reg_token", "dist_token", "norm_pre")


def optimizer_groups(module: nn.ModuleDict, settings: OptimSettings) -> list[dict[str, Any]]:
    """AdamW groups with ``lr_scale``: the encoder by depth, everything else at scale 1.

    The scale is ``layer_decay`` to the power of the distance from the head: 0 for the head, 1 for the last
    block, L for the first of L blocks, L + 1 for the stem; what belongs to no block and not to the stem (final
    norm, a bias table shared by the blocks) goes with the last block. In a Swin the merging of patches goes with the
    block before it and the final norm with the head (``get_swin_layer`` of SwinTransformer/Feature-Distillation).
    Counted from timm's names, so that every design gets the same scales; in any other network in the order in which its
    parts run: what stands between two blocks goes with the block before it. No weight decay on vectors (norms, biases,
    layer scales), on position and bias tables, or on tokens.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part_name, part in module.items():
        depth = len(blocks_of(part)) if part_name == "encoder" else 0
        starts = _first_blocks(part) if depth else {}
        exempt = set(getattr(part, "no_weight_decay", set)())  # timm's names of what is not decayed
        for name, parameter in part.named_parameters():
            if not parameter.requires_grad:
                continue
            level = 0 if not depth else anatomy_level(part, name, depth, starts)
            scale = settings.layer_decay**level
            table = TABLE in name
            spared = parameter.ndim <= 1 or (name in exempt and not table) or name.endswith("_token")
            spared = spared or (table and not settings.decay_tables)
            decay = 0.0 if spared else settings.weight_decay
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": p, "weight_decay": decay, "lr_scale": scale} for (scale, decay), p in groups.items()]


def anatomy_level(module: nn.Module, name: str, depth: int, starts: Mapping[str, int]) -> int:
    """How many levels a parameter of this encoder stands below the head, by the network's anatomy."""
    anatomy = anatomy_of(module)
    if anatomy.order_of_parts is None:
        return levels_below_head(name, depth, starts)
    return depth + 1 - anatomy.blocks_done(name)


def levels_below_head(name: str, depth: int, starts: Mapping[str, int] | None = None) -> int:
    """How many levels an encoder's parameter stands below the head; see ``optimizer_groups``.

    ``starts``: the number of the first block of each stage of a Swin. timm merges patches before a stage's blocks,
    the official code behind those of the stage before; the weights are the same and go with the block before.

    >>> levels_below_head("blocks.11.mlp.fc1.weight", 12), levels_below_head("blocks.0.norm1.weight", 12)
    (1, 12)
    >>> levels_below_head("patch_embed.proj.weight", 12), levels_below_head("norm.weight", 12)
    (13, 1)
    >>> starts = {"layers.0": 0, "layers.1": 2, "layers.2": 4, "layers.3": 10}
    >>> [levels_below_head(f"layers.2.{name}", 12, starts) for name in ("downsample.norm.bias", "blocks.0.norm1.bias")]
    [9, 8]
    """
    for stage, first in (starts or {}).items():
        if name.startswith(f"{stage}."):
            block = re.match(r"blocks\.(\d+)\.", name.removeprefix(f"{stage}."))
            return depth - first - int(block[1]) if block else depth - first + 1
    block = re.match(r"blocks\.(\d+)\.", name)
    if block:
        return depth - int(block[1])
    rest = 0 if starts else 1
    return depth + 1 if name.startswith(STEM) else rest


def _first_blocks(module: nn.Module) -> dict[str, int]:
    """{"layers.1": 2, ...}: the number of the first block of every stage of a hierarchical model."""
    if hasattr(module, "blocks"):
        return {}
    starts, count = {}, 0
    for name, part in module.named_modules():
        if isinstance(getattr(part, "blocks", None), (nn.ModuleList, nn.Sequential)):
            starts[name] = count
            count += len(part.blocks)
    return starts


def learning_rate(step: int, total: int, settings: OptimSettings) -> float:
    """The learning rate of this step (from 0) at layer scale 1; a pure function, so that resuming needs no state.

    Linear from ``warmup_start`` over the warm-up, then constant, or a cosine down to ``floor``.

    >>> settings = OptimSettings(lr=1.0, warmup=0.1)
    >>> [round(learning_rate(step, 100, settings), 2) for step in (0, 4, 9, 55, 99)]
    [0.1, 0.5, 1.0, 0.5, 0.0]
    """
    warm = settings.warmup if settings.warmup > 1 else settings.warmup * total
    if step < warm:
        share = (step + 1) / warm if warm >= 1 else 1.0
        return settings.warmup_start + (settings.lr - settings.warmup_start) * min(share, 1.0)
    if settings.schedule == "constant":
        return settings.lr
    share = (step - warm) / max(total - warm, 1)
    floor = min(settings.floor, settings.lr)
    return floor + (settings.lr - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def make_optimizer(module: nn.ModuleDict, settings: OptimSettings) -> torch.optim.Optimizer:
    """AdamW (one fused kernel a step) or LARS over ``optimizer_groups``.

    LARS (You et al. 2017) adapts matrices and leaves vectors alone, as MAE's linear probe does.
    """
    groups = optimizer_groups(module, settings)
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    from timm.optim import Lars

    parts = [
        {**group, "params": chosen, "always_adapt": matrix}
        for group in groups
        for matrix in (True, False)
        if (chosen := [p for p in group["params"] if (p.ndim > 1) == matrix])
    ]
    return Lars(parts, lr=settings.lr, momentum=settings.momentum, trust_coeff=settings.trust)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Each group's rate is ``lr`` times its ``lr_scale``; the floor is scaled too, so none rises after warm-up."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
