"""The feature probe's rows from what it kept of the images: intervals, CKA, spectra, classifiers on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.measures import features as form
from fdlab.measures.classifier import knn_predict
from fdlab.measures.pooled import cross_validated
from fdlab.measures.threads import one_thread
from fdlab.randomness import stream
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import jackknife_interval, mean_interval, proportion_interval

JACKKNIFE = 16  # groups of images, each left out in turn
MEAN_TOKEN = "mean patch token of each image"
GROUP = 32  # images whose Gram matrix is taken together
FOLDS = 5
PER_IMAGE = ("high_frequency", "high_frequency_published", "token_similarity", "token_variance")
OF_SET = ("effective_rank", "uniformity")
SPECTRUM = "singular_value"
LABELLED = ("knn", "linear_probe")
ATTENTIVE = "attentive pooling"
POOLINGS = {"patches": "patch mean", "class": "class token", "attentive": ATTENTIVE}


def feature_rows(
    arrays: dict[str, np.ndarray], wanted: set[str], seed: int, tokens: list[Tensor] | None = None
) -> list[dict[str, Any]]:
    """Rows of the table for ``wanted``; what was right of ``knn`` and ``linear_probe`` is added to ``arrays``.

    ``tokens``, (b, N, C) each, are those of attentive pooling, where it is asked for; the list is emptied.
    """
    images, _, width = arrays["pooled"].shape
    with one_thread(images * width * min(images, width)):
        return _rows(arrays, wanted, seed, tokens or [])


def _rows(arrays: dict[str, np.ndarray], wanted: set[str], seed: int, tokens: list[Tensor]) -> list[dict[str, Any]]:
    rows = per_image_rows(arrays, seed)
    pooled = torch.from_numpy(arrays["pooled"]).double()
    if wanted & {"effective_rank", SPECTRUM}:
        rows += [row for row in _singular_rows(pooled) if row["metric"] in wanted]
    if "uniformity" in wanted:
        rows += _block_rows("uniformity", _uniformity(pooled), len(pooled), MEAN_TOKEN)
    if "gram" in arrays and "cka" in wanted:
        rows += [row for row in cka_rows(arrays, arrays) if row["block"] < row["x"]]
    if "labels" in arrays and wanted & set(LABELLED):
        rows += _labelled_rows(arrays, wanted, seed, tokens)
    return rows


def per_image_rows(arrays: Mapping[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """Rows a block of what has a value an image, (n, blocks)."""
    rows: list[dict[str, Any]] = []
    for name in (*PER_IMAGE, "alignment"):
        if name in arrays:
            objective = "two views: crop 0.67 to 1, brightness and contrast 0.2" if name == "alignment" else ""
            rows += _block_rows(name, mean_interval(arrays[name], seed), len(arrays[name]), objective)
    return rows


def _uniformity(pooled: Tensor) -> Estimate:
    """(blocks,) of (n, blocks, C). A group that is left out takes its pairs along: they are summed by groups once."""
    n, groups = len(pooled), min(JACKKNIFE, len(pooled))
    member = torch.nn.functional.one_hot(torch.arange(n) % groups, groups).double()
    sums = []
    for block in range(pooled.shape[1]):
        terms = form.uniformity_terms(pooled[:, block]).fill_diagonal_(0.0)  # an image with itself is no pair
        sums.append(member.T @ terms @ member)
    pairs = torch.stack(sums)

    def mean(kept: np.ndarray) -> np.ndarray:
        left = np.unique(kept % groups)
        return (pairs[:, left][:, :, left].sum((1, 2)) / (len(kept) * (len(kept) - 1))).log().numpy()

    return jackknife_interval(n, mean, folds=JACKKNIFE)


def _singular(pooled: Tensor) -> Tensor:
    """(n, blocks, C) -> (blocks, min(n, C)): singular values of the centred images, falling."""
    centred = (pooled - pooled.mean(0)).transpose(0, 1)
    wide = centred.shape[1] <= centred.shape[2]
    return form.spectrum(centred @ centred.mT if wide else centred.mT @ centred)


def _singular_rows(pooled: Tensor) -> list[dict[str, Any]]:
    """Effective rank, and shares of the singular values of every block at places that thin out geometrically."""
    images, blocks, width = pooled.shape
    left = images - -(-images // JACKKNIFE)  # without a group of the jackknife
    places = np.unique(np.geomspace(1, max(1, min(left - 1, width)), 40).round().astype(int))

    def statistic(kept: np.ndarray) -> np.ndarray:
        values = _singular(pooled[kept])
        shares = (values / values.sum(-1, keepdim=True))[:, places - 1]
        return torch.cat([form.effective_rank(values)[:, None], shares], 1).numpy()

    found = jackknife_interval(images, statistic, folds=JACKKNIFE)
    rank = Estimate(found.value[:, 0], found.low[:, 0], found.high[:, 0])
    return _block_rows("effective_rank", rank, images, MEAN_TOKEN) + [
        {"metric": SPECTRUM, "block": block, "depth": (block + 1) / blocks, "x": float(k),
         "value": float(found.value[block, i]), "low": max(0.0, float(found.low[block, i])),
         "high": float(found.high[block, i]), "n": images, "objective": MEAN_TOKEN}
        for block in range(blocks) for i, k in enumerate(places, start=1)
    ]  # fmt: skip


def _block_rows(name: str, estimate: Estimate, n: int, objective: str = "") -> list[dict[str, Any]]:
    count = len(estimate.value)
    return [
        {"metric": name, "block": block, "depth": (block + 1) / count, "value": float(estimate.value[block]),
         "low": float(estimate.low[block]), "high": float(estimate.high[block]), "n": n, "objective": objective}
        for block in range(count)
    ]  # fmt: skip


def cka_rows(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """``cka`` of every block of one model (rows) with every block of another (``x``), from their Gram matrices.

    The unbiased estimate is a correlation (an inner product of U-centred matrices over their norms, Szekely & Rizzo
    2014), so its interval is taken on Fisher's z. Images of unrelated features can give an estimate below 0, which CKA
    itself never is: the interval is cut at 0, or reaches from such an estimate to 0 at least.
    """
    sizes = [int(size) for size in first["gram_sizes"]]
    pairs = [
        (torch.from_numpy(a[:, :size, :size]), torch.from_numpy(b[:, :size, :size]))
        for a, b, size in zip(first["gram"], second["gram"], sizes, strict=True)
    ]

    def statistic(kept: np.ndarray) -> np.ndarray:
        inside = [torch.from_numpy(kept[(kept >= i * GROUP) & (kept < i * GROUP + s)] - i * GROUP)
                  for i, s in enumerate(sizes)]  # fmt: skip
        cut = [(a[:, k][:, :, k], b[:, k][:, :, k]) for (a, b), k in zip(pairs, inside, strict=True)]
        return form.cka_blocks(cut).numpy()

    estimate = jackknife_interval(GROUP * (len(sizes) - 1) + sizes[-1], statistic, correlation=True)
    low = np.maximum(estimate.low, np.minimum(estimate.value, 0.0))
    high = np.maximum(estimate.high, 0.0)
    depth = estimate.value.shape[0]
    return [
        {"metric": "cka", "block": i, "depth": (i + 1) / depth, "x": float(j), "value": float(estimate.value[i, j]),
         "low": float(low[i, j]), "high": float(high[i, j]), "n": sum(sizes),
         "objective": f"unbiased, groups of {GROUP} images, all patch tokens"}
        for i, j in np.ndindex(*estimate.value.shape)
    ]  # fmt: skip


def _labelled_rows(
    arrays: dict[str, np.ndarray], wanted: set[str], seed: int, tokens: list[Tensor]
) -> list[dict[str, Any]]:
    labels = np.unique(arrays["labels"], return_inverse=True)[1]
    folds = stream(seed, "folds", len(labels)).permutation(len(labels)) % FOLDS
    rows = []
    for pooling in POOLINGS.values():
        for name in (n for n in LABELLED if n in wanted):
            if pooling in arrays:
                x = torch.from_numpy(arrays[pooling])
                right = _knn(x, labels, folds) if name == "knn" else _linear([x[:, None]], labels, folds, seed)
            elif pooling == ATTENTIVE and name == "linear_probe" and tokens:
                right = _linear(tokens, labels, folds, seed)
            else:
                continue
            arrays[f"{name} {pooling}"] = right
            value, low, high, _ = proportion_interval(int(right.sum()), len(right))
            rows.append({"metric": name, "value": value, "low": low, "high": high, "n": len(right),
                         "objective": f"{pooling}, {FOLDS} folds"})  # fmt: skip
    return rows


def _knn(x: Tensor, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(n,) bool: whether an image's class is named rightly by the images of the other folds."""
    right = np.zeros(len(labels), dtype=bool)
    for fold in range(FOLDS):
        out, rest = folds == fold, folds != fold
        predicted = knn_predict(x[rest], torch.from_numpy(labels[rest]), x[out], k=20).numpy()
        right[out] = predicted == labels[out]
    return right


def _linear(chunks: list[Tensor], labels: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """(n,) bool, the same for a linear probe; the list is emptied while its tokens are sorted into folds."""
    count = sum(chunk.shape[0] * chunk.shape[1] for chunk in chunks)
    mean = sum(chunk.sum((0, 1), dtype=torch.float64) for chunk in chunks) / count
    parts: list[list[Tensor]] = [[] for _ in range(FOLDS)]
    start = 0
    while chunks:
        chunk = chunks.pop(0)
        here = torch.from_numpy(folds[start : start + len(chunk)])
        start += len(chunk)
        centred = chunk.double() - mean if chunk.shape[1] == 1 else chunk - torch.as_tensor(mean, dtype=chunk.dtype)
        for fold, part in enumerate(parts):  # a shared offset would cost float32 its last digits
            part.append(centred[here == fold])
    named = cross_validated([torch.cat(part) for part in parts], [labels[folds == f] for f in range(FOLDS)], seed=seed)
    right = np.zeros(len(labels), dtype=bool)
    for fold, answers in enumerate(named):
        right[folds == fold] = answers
    return right
