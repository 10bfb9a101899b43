"""Arithmetic on features: linear CKA, effective rank, Fourier share, token similarity, alignment, uniformity.

Tensors in, numbers out. Sums over images are float64; what is per image keeps the images' axis, so that
intervals can be taken over images later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_EPS = 1e-6  # of the published Fourier code (Park & Kim 2022)
FOURIER_FORMS = ("nyquist", "published")


def gram(features: Tensor) -> Tensor:
    """(n, ...) features -> (n, n) float64 inner products of the flattened images, zero diagonal, centred data.

    Taking the mean over the images first changes no CKA and keeps digits.
    """
    x = features.flatten(1).double()
    x = x - x.mean(0)
    k = x @ x.T
    return k.fill_diagonal_(0.0)


def hsic_unbiased(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Unbiased HSIC of (..., n, n) Gram matrices with zero diagonals, n >= 4 (Song et al. 2012).

    ``[tr(KL) + sum K sum L / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n (n-3))``.
    """
    n = k.shape[-1]
    if n < 4:
        raise ValueError("unbiased HSIC needs at least 4 images")
    rows_k, rows_l = k.sum(-1), l.sum(-1)
    trace = (k * l).sum((-2, -1))
    sums = rows_k.sum(-1) * rows_l.sum(-1) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (rows_k * rows_l).sum(-1)) / (n * (n - 3))


def cka_from_hsic(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``; over minibatches, means are taken BEFORE this ratio."""
    scale = (first * second).clamp_min(0.0).sqrt()
    return torch.where(scale > 0, cross / scale, torch.full_like(cross, math.nan))


def cka(x: Tensor, y: Tensor, *, batch: int = 0, biased: bool = False) -> float:
    """Linear CKA of two representations of the same images (Kornblith et al. 2019; Nguyen et al. 2021).

    Args:
        x: (n, ...) and y: (n, ...) features, flattened per image.
        batch: the unbiased HSIC is averaged over groups of so many images; 0: all at once.
        biased: the centred Frobenius form, which is high where channels outnumber images.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 3.0], [2.0, 1.0]])
    >>> round(cka(x, 3 * x.flip(1)), 6)  # neither scale nor rotation matters
    1.0
    """
    if biased:
        a, b = (t.flatten(1).double() - t.flatten(1).double().mean(0) for t in (x, y))
        norms = (a.T @ a).norm() * (b.T @ b).norm()
        return float((a.T @ b).square().sum() / norms)
    size = batch or len(x)
    parts = [(gram(x[i : i + size]), gram(y[i : i + size])) for i in range(0, len(x) - size + 1, size)]
    cross, first, second = (
        torch.stack([hsic_unbiased(pair[a], pair[b]) for pair in parts]).mean() for a, b in ((0, 1), (0, 0), (1, 1))
    )
    return float(cka_from_hsic(cross, first, second))


def cka_blocks(groups: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(A, B): minibatch CKA of every block of one model with every block of another.

    Args:
        groups: for each group of images, Gram matrices (A, n, n) and (B, n, n) with zero diagonals, n >= 4.
    """
    totals = [torch.zeros(())] * 3
    for first, second in groups:
        k, l = first.double(), second.double()  # noqa: E741
        cross = hsic_unbiased(k[:, None], l[None])
        totals = [t + h for t, h in zip(totals, (cross, hsic_unbiased(k, k), hsic_unbiased(l, l)), strict=True)]
    return cka_from_hsic(totals[0], totals[1][:, None], totals[2][None])


def spectrum(covariance: Tensor) -> Tensor:
    """(..., C, C) second moments of centred features -> (..., C) singular values of the data, falling."""
    return torch.linalg.eigvalsh(covariance.double()).clamp_min(0.0).sqrt().flip(-1)


def effective_rank(singular: Tensor) -> Tensor:
    """(..., C) singular values -> exp of the entropy of ``s / sum s`` (Roy & Vetterli 2007); 1 to C.

    Of singular values, not of their squares: the form on variances and the participation ratio are smaller.

    >>> round(float(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0]))), 6)
    3.0
    """
    p = singular.double() / singular.double().sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1).exp()


def participation_ratio(singular: Tensor) -> Tensor:
    """(..., C) singular values -> ``(sum s^2)^2 / sum s^4``, 1 to C.

    >>> round(float(participation_ratio(torch.tensor([2.0, 2.0, 0.0]))), 6)
    2.0
    """
    power = singular.double().square()
    return power.sum(-1).square() / power.square().sum(-1)


def high_frequency(maps: Tensor, form: str = "nyquist") -> Tensor:
    """(B, C, h, w) feature maps -> (B,): log amplitude of the highest diagonal frequency, less that of 0.

    ``mean over channels of ln(|FFT2| + 1e-6)`` at the frequency, minus the same at frequency 0.

    Args:
        form: "nyquist": at ``(h // 2, w // 2)``, the true end of the diagonal. "published": at
            ``ceil(h / 2) - 1``, the last entry that the code of Park & Kim 2022 (arXiv 2202.06709) plots: on
            even grids one step short of the end, 6/7 pi for 14 x 14, so that a checkerboard is not seen.
    """
    if form not in FOURIER_FORMS:
        raise ValueError(f"form is one of {FOURIER_FORMS}")
    h, w = maps.shape[-2:]
    place = (h // 2, w // 2) if form == "nyquist" else (math.ceil(h / 2) - 1, math.ceil(w / 2) - 1)
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in (h, w))
    turns = place[0] / h * rows[:, None] + place[1] / w * columns
    angle = 2 * math.pi * turns.flatten().to(maps.device)
    waves = torch.stack([torch.ones_like(angle), angle.cos(), angle.sin()], 1)  # two frequencies of FFT2 alone
    constant, even, odd = (maps.double().flatten(2) @ waves).unbind(-1)
    amplitude, at_zero = ((size + LOG_EPS).log() for size in (even.hypot(odd), constant.abs()))
    return (amplitude - at_zero).mean(-1)


def token_similarity(tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B,): mean cosine over pairs of an image's tokens, ``(|sum of units|^2 - N) / (N (N - 1))``.

    >>> token_similarity(torch.tensor([[[1.0, 0.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])).tolist()
    [1.0, 0.0]
    """
    unit = F.normalize(tokens.double(), dim=-1)
    n = tokens.shape[1]
    if n < 2:
        return torch.full((len(tokens),), math.nan, dtype=torch.float64, device=tokens.device)
    return (unit.sum(1).square().sum(-1) - n) / (n * (n - 1))


def token_variance(tokens: Tensor) -> Tensor:
    """(B, N, C) -> (B,): variance over an image's tokens (N - 1), mean over channels (Park & Kim 2022, figure 9)."""
    return tokens.double().var(1).mean(-1)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """(B, C) and (B, C) features of two views -> (B,): squared distance on the unit sphere, 0 to 4.

    Wang & Isola 2020 (arXiv 2005.10242).
    """
    return (F.normalize(first.double(), dim=-1) - F.normalize(second.double(), dim=-1)).square().sum(-1)


def uniformity_terms(features: Tensor) -> Tensor:
    """(n, C) -> (n, n) ``exp(-2 |f_i - f_j|^2)`` on the unit sphere; the diagonal is no pair."""
    unit = F.normalize(features.double(), dim=-1)
    return (4 * (unit @ unit.T - 1)).clamp_max(0.0).exp()


def uniformity(features: Tensor) -> float:
    """(n, C) -> ``ln mean over pairs of exp(-2 |f_i - f_j|^2)`` (Wang & Isola 2020); -4 to 0 for many images."""
    terms = uniformity_terms(features)
    n = len(terms)
    return float(((terms.sum() - terms.diagonal().sum()) / (n * (n - 1))).log())
