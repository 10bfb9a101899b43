"""What is done to a teacher's tokens before the student predicts them.

``layernorm`` is the paper's (each token by itself, no state); ``standardise`` gives each channel mean 0 and
variance 1 over the data, ``pca`` makes channels uncorrelated with variance 1. The last two have statistics,
fitted on images before the first step and kept with the run; ``standardise`` goes on following the data.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fdlab.engine.distributed import current

EPS = 1e-5
SHRINK = 1e-3  # of the mean eigenvalue, added to each: directions that hardly occur are not blown up


class Statistics(nn.Module):
    """Whitening by statistics of the data.

    Args:
        width: channels of the target.
        pca: decorrelate, from the fit alone; else standardise each channel, with running statistics.
        momentum: share of a step's statistics in the running ones.
    """

    mean: Tensor  # (width,)
    variance: Tensor  # (width,)
    matrix: Tensor  # (width, width), with pca

    def __init__(self, width: int, *, pca: bool, momentum: float = 0.01) -> None:
        super().__init__()
        self.pca, self.momentum = pca, momentum
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        if pca:
            self.register_buffer("matrix", torch.eye(width))
        self._seen: list[tuple[Tensor, Tensor, int]] = []

    def forward(self, tokens: Tensor) -> Tensor:
        """Whitens tokens (..., C), in float32. In training mode their sums are kept for ``follow``."""
        tokens = tokens.float()
        if self.training and not self.pca:
            flat = tokens.detach().flatten(0, -2)
            self._seen.append((flat.sum(0), flat.square().sum(0), len(flat)))
        if self.pca:
            return (tokens - self.mean) @ self.matrix
        return (tokens - self.mean) / (self.variance + EPS).sqrt()

    @torch.no_grad()
    def fit(self, parts: Iterable[Tensor]) -> None:
        """Statistics of all tokens in ``parts``, each (..., C), in double precision.

        PCA: ``(t - mean) U / sqrt(lambda + shrink)`` with covariance ``U diag(lambda) U'``.
        """
        count, total, outer = 0, None, None
        for part in parts:
            flat = part.flatten(0, -2)
            flat = (flat.cpu() if flat.device.type == "mps" else flat).double()  # Apple's GPU has no double
            count += len(flat)
            total = flat.sum(0) if total is None else total + flat.sum(0)
            square = flat.T @ flat if self.pca else flat.square().sum(0)
            outer = square if outer is None else outer + square
        assert total is not None
        assert outer is not None
        mean = total / count
        self.mean.copy_(mean)
        if not self.pca:
            self.variance.copy_(outer / count - mean.square())
            return
        covariance = outer / count - torch.outer(mean, mean)
        # On the CPU: not every device has a symmetric eigensolver in double precision.
        values, vectors = torch.linalg.eigh(covariance.cpu())
        values = values.clamp_min(0) + SHRINK * values.clamp_min(0).mean() + 1e-12
        self.matrix.copy_(vectors / values.sqrt())

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the running mean and variance towards those of this step's tokens, of all its parts and ranks."""
        if not self._seen:
            return
        ranks = current()
        count = ranks.total(sum(seen[2] for seen in self._seen))[0]
        mean = ranks.sum_tensor(torch.stack([seen[0] for seen in self._seen]).sum(0)) / count
        square = ranks.sum_tensor(torch.stack([seen[1] for seen in self._seen]).sum(0)) / count
        self._seen.clear()
        self.variance.lerp_((square - mean.square()).clamp_min(0), self.momentum)
        self.mean.lerp_(mean, self.momentum)
