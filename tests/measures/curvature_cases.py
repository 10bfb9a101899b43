"""The matrices of curvature_truth.json, built from their rules."""

from __future__ import annotations

import torch
from torch import Tensor


def reflected(values: Tensor) -> Tensor:
    """H diag(values) H with the Householder reflection of u_i = sin(i)."""
    n = len(values)
    u = torch.sin(torch.arange(1, n + 1, dtype=torch.float64))
    mirror = torch.eye(n, dtype=torch.float64) - 2 * torch.outer(u, u) / (u @ u)
    return mirror @ torch.diag(values) @ mirror


def spectra() -> dict[str, Tensor]:
    k, j, m = (torch.arange(*ends, dtype=torch.float64) for ends in ((1, 11), (0, 540), (1, 51)))
    outliers = torch.cat([100 / k**1.5, (j / 539) ** 3, -2 * (m / 50) ** 2])
    negative = torch.cat([torch.tensor([-5.0], dtype=torch.float64), 3 * torch.arange(199, dtype=torch.float64) / 198])
    multiple = torch.tensor([7.0] * 4 + [2.0] * 3 + [0.0] * 93, dtype=torch.float64)
    return {"quadratic_outliers": outliers, "negative_dominates": negative, "multiplicity": multiple}
