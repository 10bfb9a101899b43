"""Objectives without labels: a teacher's whitened features, or masked pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fdlab.checkpoints.open import open_model
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.losses import BETA, patchify, whiten
from fdlab.probes.objectives.heads import kept_heads, kept_linear, kept_recipe, linear
from fdlab.probes.objectives.objective import Objective, frozen, split
from fdlab.randomness import stream

if TYPE_CHECKING:
    from fdlab.encoders.encoder import Encoder


def distill(encoder: Encoder, images: Tensor, inputs: Tensor, teacher: Encoder | str | None, micro: int) -> Objective:
    """Smooth L1 on the teacher's whitened patch tokens, through the student's projector or a fitted one."""
    if teacher is None:
        raise FdlabError("There is no teacher to compare with.", fix="Give --teacher SOURCE.", code=USAGE)
    teacher = open_model(teacher, device=encoder.device) if isinstance(teacher, str) else teacher
    target = _teacher_tokens(teacher, images, encoder.info.grid, micro)
    heads, prefix = kept_heads(encoder), encoder.info.prefix_tokens

    def tokens(batch: Tensor) -> Tensor:
        return encoder.tokens(batch)[:, prefix:]

    if "projector.weight" in heads and len(heads["projector.weight"]) == target.shape[-1]:
        projector, through = kept_linear(heads, "projector"), "the student's own projector"
    else:
        projector = _fitted_projector(frozen(tokens, inputs, micro), target)
        through = "a ridge projector fitted on these images"
    module = nn.ModuleDict({"encoder": encoder.module, "head": projector.to(inputs.device)})

    def output(batch: Tensor) -> Tensor:
        return module["head"](tokens(batch))

    def criterion(predicted: Tensor, aim: Tensor) -> Tensor:
        return F.smooth_l1_loss(predicted, aim, beta=BETA, reduction="none").mean((1, 2))

    batches = split(inputs, target, micro)
    with torch.no_grad():
        outside = sum(float(((output(x) - y).abs() > BETA).float().mean((1, 2)).sum()) for x, y in batches)
    description = (
        f"smooth L1 (beta {BETA:g}) on whitened teacher patch tokens through {through}; {len(inputs)} images, "
        "eval mode, no augmentation; errors beyond beta have no curvature"
    )
    facts = {"share_outside_beta": outside / len(inputs), "teacher": teacher.info.sha256}
    return Objective("distill", description, module, {}, batches, output, criterion, None, facts)


def _teacher_tokens(teacher: Encoder, images: Tensor, grid: tuple[int, int], micro: int) -> Tensor:
    """(n, N, C) whitened patch tokens of raw images, on the student's grid."""
    side = teacher.info.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    if images.shape[-2:] != torch.Size(size):
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    tokens = frozen(teacher.tokens, teacher.normalise(images), micro)[:, teacher.info.prefix_tokens :]
    if tuple(teacher.info.grid) != tuple(grid):
        as_map = tokens.transpose(1, 2).unflatten(2, teacher.info.grid)
        tokens = F.interpolate(as_map, size=grid, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    return whiten(tokens)


def _fitted_projector(source: Tensor, target: Tensor) -> nn.Linear:
    """The ridge from (n, N, C) tokens to (n, N, K) targets, penalised by a thousandth of the mean variance."""
    x, y = source.flatten(0, 1).double(), target.flatten(0, 1).double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    gram = (x - mean_x).T @ (x - mean_x)
    ridge = 1e-3 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight = torch.linalg.solve(gram + ridge, (x - mean_x).T @ (y - mean_y)).T
    return linear(weight.float(), (mean_y - weight @ mean_x).float())


def mim(encoder: Encoder, inputs: Tensor, micro: int, seed: int) -> Objective:
    """The masked-pixel loss of a masked-image run, with fixed masks."""
    heads, patch = kept_heads(encoder), encoder.info.patch_size
    if "decoder.weight" not in heads or "mask.mask_token" not in heads:
        raise FdlabError(
            f"{encoder.info.source or 'This model'} has no decoder of masked pixels beside it.",
            "The objective 'mim' needs the run folder of a masked-image training (heads.safetensors).",
            "Give that run folder, or --objective linear-probe.",
            NOT_UNDERSTOOD,
        )
    recipe = kept_recipe(encoder).get("masked", {})
    ratio, kind = float(recipe.get("ratio", 0.6)), recipe.get("loss", "mse")
    token = nn.Parameter(heads["mask.mask_token"].to(inputs))
    head = kept_linear(heads, "decoder").to(inputs.device)
    module = nn.ModuleDict({"encoder": encoder.module, "head": head})
    pixels = patchify(inputs, patch, standardise=bool(recipe.get("per_patch", False)))
    order = stream(seed, "mim masks", len(inputs)).random(pixels.shape[:2]).argsort(1)
    mask = torch.from_numpy(order < round(ratio * pixels.shape[1])).to(inputs.device)
    # one tensor a target: the mask as a last channel behind the pixels
    target = torch.cat([pixels, mask.unsqueeze(-1).to(pixels)], -1)

    def output(batch: Tensor, hidden: Tensor) -> Tensor:
        def replace(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            return torch.where(hidden.unsqueeze(-1), token, embedded)

        hook = encoder.module.patch_embed.register_forward_hook(replace)  # type: ignore[union-attr, operator]
        try:
            return head(encoder.tokens(batch)[:, encoder.info.prefix_tokens :])
        finally:
            hook.remove()

    def criterion(batch: Tensor, aim: Tensor) -> Tensor:
        weight = aim[..., -1]
        error = output(batch, weight > 0) - aim[..., :-1]
        each = (error.abs() if kind == "l1" else error.square()).mean(-1)
        return (each * weight).sum(1) / weight.sum(1).clamp_min(1)

    description = (
        f"masked pixels ({kind}, {ratio:.0%} of the patches, masks of seed {seed}); {len(inputs)} images, eval mode"
    )
    return Objective("mim", description, module, {}, split(inputs, target, micro), _same, criterion)


def _same(inputs: Tensor) -> Tensor:
    return inputs
