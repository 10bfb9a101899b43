"""Teacher tokens on the student's grid, and which prefix tokens the two have in common."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.encoders.encoder import EncoderInfo


def aligned(
    target: Tensor, teacher_grid: tuple[int, int], prefix: int, grid: tuple[int, int], class_token: bool
) -> tuple[Tensor, bool]:
    """Brings the teacher's tokens to the student's grid and prefix.

    Registers and distillation tokens have no counterpart and are left out; the class token is kept where
    the student has one too; patch tokens are resampled bilinearly where the grids differ.

    Args:
        target: (B, N, C) teacher tokens, ``prefix`` ones first.
        teacher_grid: the teacher's grid.
        grid: the student's grid.
        class_token: whether the student has one.

    Returns:
        (B, N', C) tokens, class token first where kept; and whether it was kept.
    """
    patches = target[:, prefix:]
    if tuple(teacher_grid) != tuple(grid):
        as_map = patches.transpose(1, 2).unflatten(2, teacher_grid)
        as_map = F.interpolate(as_map, size=grid, mode="bilinear", antialias=True)
        patches = as_map.flatten(2).transpose(1, 2)
    keep = class_token and prefix > 0
    return (torch.cat([target[:, :1], patches], 1) if keep else patches), keep


def describe(teacher: EncoderInfo, grid: tuple[int, int], class_token: bool, view: int) -> list[str]:
    """Sentences on what was changed to make the tokens match; empty where nothing was."""
    notes = []
    side = teacher.image_size if isinstance(teacher.image_size, int) else teacher.image_size[0]
    if side != view:
        notes.append(f"The teacher sees the {view} px views resized to its own {side} px.")
    if tuple(teacher.grid) != tuple(grid):
        notes.append(f"The teacher's {teacher.grid} patch tokens are resampled to the student's {grid}.")
    dropped = teacher.prefix_tokens - (1 if class_token and teacher.prefix_tokens else 0)
    if dropped:
        notes.append(f"{dropped} prefix token(s) of the teacher have no counterpart and are not distilled.")
    return notes
