"""Losses: whitened smooth L1 (distillation), NT-Xent (contrastive), masked pixels (masked image modelling)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WHITEN_EPS = 1e-5
BETA = 2.0  # where the paper's smooth L1 turns linear (arXiv 2205.14141, section 3)


def whiten(tokens: Tensor) -> Tensor:
    """LayerNorm without scale and shift, per token: ``(t - mean) / sqrt(var + 1e-5)`` over the channels.

    Wei et al. 2022 (arXiv 2205.14141). It is a standardisation of each token, not a decorrelation.
    ``tokens`` (..., C) -> the same shape, float32.

    >>> [round(float(value), 3) for value in whiten(torch.tensor([1.0, 2.0, 3.0]))]
    [-1.225, 0.0, 1.225]
    """
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=WHITEN_EPS)


def distillation_loss(predicted: Tensor, target: Tensor, beta: float = BETA) -> Tensor:
    """Smooth L1 of the projected student tokens against the whitened teacher tokens, plain mean.

    ``e = predicted - target``; ``e^2 / (2 beta)`` where ``|e| <= beta``, else ``|e| - beta / 2`` (arXiv
    2205.14141). Predicting 0 gives 0.247 for Gaussian targets and at most 0.25 for any, at beta 2.

    >>> float(distillation_loss(torch.zeros(2), torch.tensor([1.0, 5.0]), beta=2.0))  # (1 / 4 + 4) / 2
    2.125
    """
    return F.smooth_l1_loss(predicted.float(), target, beta=beta)


def feature_loss(
    predicted: Tensor,
    target: Tensor,
    kind: str = "smooth_l1",
    *,
    beta: float = BETA,
    temperature: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """How far predicted features are from the target: both (B, N, C), mean over images and tokens.

    ``smooth_l1`` the paper's, ``mse``: mean over channels of the square, ``cosine``: 1 - cos, ``kl``:
    ``T^2 KL(softmax(target / T) || softmax(predicted / T))`` over the channels (Hinton et al. 2015).
    ``weight`` (B, N): tokens count by it, their sum is the divisor.
    """
    predicted = predicted.float()
    if weight is None and kind == "smooth_l1":
        return distillation_loss(predicted, target, beta)
    if kind == "smooth_l1":
        each = F.smooth_l1_loss(predicted, target, beta=beta, reduction="none").mean(-1)
    elif kind == "mse":
        each = (predicted - target).square().mean(-1)
    elif kind == "cosine":
        each = 1 - F.cosine_similarity(predicted, target, dim=-1)
    elif kind == "kl":
        log_p, log_q = (F.log_softmax(x / temperature, -1) for x in (predicted, target))
        each = temperature**2 * (log_q.exp() * (log_q - log_p)).sum(-1)
    else:
        raise ValueError(f"no loss {kind!r}")
    if weight is None:
        return each.mean()
    weight = weight.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp_min(1)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al. 2020, arXiv 2002.05709): (B, D) and (B, D) projections of two views.

    Each of the 2B projections z_i has to find its other view z_j among the 2B - 1 others:
    ``-log(exp(cos(z_i, z_j) / T) / sum over k != i of exp(cos(z_i, z_k) / T))``, mean over i.

    >>> round(float(nt_xent(torch.ones(2, 3), torch.ones(2, 3), temperature=0.2)), 4)  # ln 3: no pair stands out
    1.0986
    """
    both = F.normalize(torch.cat([first, second]).float(), dim=-1)
    logits = both @ both.T / temperature
    logits.fill_diagonal_(float("-inf"))
    count = len(first)
    partner = torch.arange(2 * count, device=logits.device).roll(count)
    return F.cross_entropy(logits, partner)


def patchify(images: Tensor, patch: int, *, standardise: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, patches in row-major order, C * patch * patch).

    ``standardise``: each patch has mean 0 and variance 1 over its own values, with 1e-6 added to the variance
    (MAE's option, He et al. 2022, arXiv 2111.06377, section 3).

    >>> patchify(torch.arange(8.0).view(1, 1, 2, 4), 2).tolist()
    [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]
    """
    batch, channels, height, width = images.shape
    cut = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    patches = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch * patch)
    if not standardise:
        return patches
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def masked_pixel_loss(predicted: Tensor, pixels: Tensor, mask: Tensor, kind: str = "mse") -> Tensor:
    """Error on the masked patches alone: ``predicted`` and ``pixels`` (B, N, P), ``mask`` (B, N) bool.

    ``kind`` "l1" is SimMIM's (Xie et al. 2022, arXiv 2111.09886), "mse" MAE's (He et al. 2022).
    """
    error = predicted.float() - pixels
    each = (error.abs() if kind == "l1" else error.square()).mean(-1)
    weight = mask.to(each.dtype)
    return (each * weight).sum() / weight.sum().clamp_min(1)
