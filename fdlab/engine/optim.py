"""The optimiser: parameter groups with layer-wise decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from fdlab.engine.recipe import OptimSettings


def parameter_groups(module: nn.ModuleDict, settings: OptimSettings) -> list[dict[str, Any]]:
    """AdamW groups with ``lr_scale``: the encoder by depth, everything else at scale 1.

    No weight decay on vectors (norms, biases, layer scales), nor on what the timm class names in
    ``no_weight_decay()`` (position tables, class token). The scale is ``layer_decay`` to the power of the
    distance from the head: 0 for the head, 1 for the last block with the final norm, L + 1 for the stem of
    L blocks (BEiT's rule, which the paper's fine-tuning follows).
    """
    groups: list[dict[str, Any]] = []
    for name, part in module.items():
        trainable = [p for p in part.parameters() if p.requires_grad]
        if not trainable:
            continue
        if name == "encoder" and settings.layer_decay < 1:
            exempt = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()
            levels = param_groups_layer_decay(
                part,
                weight_decay=settings.weight_decay,
                no_weight_decay_list=tuple(exempt),
                layer_decay=settings.layer_decay,
            )
            # timm's last level is scale 1; here the head outside of the encoder is the level above it.
            groups += [{**group, "lr_scale": group["lr_scale"] * settings.layer_decay} for group in levels]
        else:
            groups += _by_decay(part, settings.weight_decay)
    return groups


def _by_decay(part: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    exempt = set(part.no_weight_decay()) if hasattr(part, "no_weight_decay") else set()
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in part.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim <= 1 or name in exempt or name.endswith("_token")
            (free if spared else decayed).append(parameter)
    pairs = ((decayed, weight_decay), (free, 0.0))
    return [{"params": p, "weight_decay": decay, "lr_scale": 1.0} for p, decay in pairs if p]


def learning_rate(step: int, total: int, settings: OptimSettings) -> float:
    """The learning rate of this step (from 0) at layer scale 1; a pure function, so that resuming needs no state.

    Linear from ``warmup_start`` over the warm-up, then constant, or a cosine down to ``floor``.
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
    """AdamW over ``parameter_groups``; one fused kernel a step."""
    return torch.optim.AdamW(parameter_groups(module, settings), lr=settings.lr, betas=settings.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Each group's rate is ``lr`` times its ``lr_scale``; the floor is scaled too, so none rises after warm-up."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
