"""Floating-point operations of a vision transformer, by formula (profilers count attention kernels as nothing)."""

from __future__ import annotations


def vit_forward(
    *, depth: int, width: int, patches: int, prefix: int, patch_size: int, mlp_ratio: float = 4.0, channels: int = 3
) -> float:
    """FLOPs (2 x multiply-adds) of one image's forward pass.

    ``L N D^2 (8 + 4 r) + 4 L N^2 D + 2 (N - p) D C P^2``: the four projections and the MLP of L blocks on N tokens
    (p of them prefix tokens), both products of attention, the patch embedding. Norms and the like are left out.
    """
    tokens = patches + prefix
    blocks = depth * tokens * width**2 * (8 + 4 * mlp_ratio)
    attention = 4 * depth * tokens**2 * width
    return blocks + attention + 2 * patches * width * channels * patch_size**2


def training(forward: float) -> float:
    """FLOPs of forward and backward: the backward pass is two forward passes."""
    return 3 * forward
