"""k-nearest-neighbour classification of features, after DINO's protocol."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_predict(
    train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20, temperature: float = 0.07, classes: int = 0
) -> Tensor:
    """Weighted vote of the k most similar training features (Caron et al. 2021, arXiv 2104.14294).

    Features are L2-normalised; a neighbour of cosine s votes with exp(s / temperature).

    Args:
        train: (M, C) features. labels: (M,) classes from 0. test: (T, C) features.

    Returns:
        (T,) predicted classes.
    """
    classes = classes or int(labels.max()) + 1
    similarity = F.normalize(test.float(), dim=-1) @ F.normalize(train.float(), dim=-1).T
    top, index = similarity.topk(min(k, len(train)), dim=-1)
    votes = torch.zeros(len(test), classes, dtype=top.dtype)
    votes.scatter_add_(1, labels[index], (top / temperature).exp())
    return votes.argmax(-1)
