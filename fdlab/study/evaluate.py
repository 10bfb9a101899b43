"""``fdlab evaluate``: k nearest neighbours and a linear probe on frozen features; the model's own classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import parse_label
from fdlab.data.images import ImageSource
from fdlab.data.sources import open_data
from fdlab.encoders.encoder import Encoder
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.classifier import knn_predict, logistic_predict
from fdlab.progress import Progress
from fdlab.records.intervals import proportion_interval
from fdlab.records.table import frame
from fdlab.study.inputs import check_held_out

METRIC = {"knn": "knn", "linear": "linear_probe"}


def evaluate(
    kind: str,
    models: Sequence[str],
    data: str,
    test: str,
    *,
    pool: str = "patches",
    images: int = 0,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = True,
    k: int = 20,
) -> pd.DataFrame:
    """Accuracy of a model's frozen features on ``test`` after fitting on ``data``; one row a model.

    Args:
        kind: "knn" or "linear".
        models: ``SOURCE`` or ``label=SOURCE``.
        pool: which token: the mean of the patches or the class token; it changes the ranking.
        images: at most so many training images, chosen by the seed; 0: all.

    Raises:
        FdlabError: code 2, a pooling that the model has not, or test images that are trained on; code 3, images
            without labels, or a model or images that cannot be read.
    """
    train, held = open_data(data, seed=seed), open_data(test, seed=seed)
    if images:
        train = train.sample(images, seed)
    check_held_out(train, held)
    rows = []
    for text in models:
        label, source = parse_label(text)
        encoder = open_model(source, device=device, seed=seed)
        with Progress(label, len(train) + len(held), quiet=quiet) as progress:
            x, y = features(encoder, train, pool=pool, progress=progress)
            x_test, y_test = features(encoder, held, pool=pool, progress=progress)
        if min(int(y.min()), int(y_test.min())) < 0:
            fix = "Use class folders or a label column."
            raise FdlabError("Some images have no label.", fix=fix, code=NOT_UNDERSTOOD)
        if kind == "knn":
            predicted = knn_predict(x, y, x_test, k=k).numpy()
        else:
            predicted = logistic_predict(x.numpy(), y.numpy(), x_test.numpy())
        correct = int(np.sum(predicted == y_test.numpy()))
        objective = f"{pool} tokens, {len(y)} labelled images"
        row = _row(label, encoder, seed, correct, len(y_test))
        rows.append({**row, "probe": "features", "metric": METRIC[kind], "objective": objective})
    return frame(rows)


def classifier(
    models: Sequence[str], test: str, *, seed: int = 0, device: str = "cpu", quiet: bool = True, batch: int = 64
) -> pd.DataFrame:
    """Accuracy of each model's own classifier on ``test``; one row a model, with Wilson's interval.

    Args:
        models: ``SOURCE`` or ``label=SOURCE``, each with a classifier of the images' classes in the same order.

    Raises:
        FdlabError: code 3, a model without classifier, images without labels, or labels beyond the model's classes.
    """
    held = open_data(test, seed=seed)
    rows = []
    for text in models:
        label, source = parse_label(text)
        encoder = open_model(source, device=device, seed=seed)
        with Progress(label, len(held), quiet=quiet) as progress:
            correct, count = _correct(encoder, held, batch, progress)
        rows.append({**_row(label, encoder, seed, correct, count), "probe": "training", "metric": "accuracy"})
    return frame(rows)


def features(
    encoder: Encoder, images: ImageSource, *, pool: str = "patches", batch: int = 64, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """(n, C) pooled tokens after the final norm, and (n,) labels; the evaluation view, no gradient.

    Raises:
        FdlabError: code 2, no such pooling, or no class token to take.
    """
    if pool not in ("patches", "class"):
        raise FdlabError(f"There is no pooling {pool!r}.", fix="Give --pool patches or --pool class.", code=USAGE)
    prefix = encoder.info.prefix_tokens
    if pool == "class" and not prefix:
        raise FdlabError("This model has no class token.", fix="Give --pool patches.", code=USAGE)
    pooled, labels = [], []
    for pixels, answers in _batches(encoder, images, batch, progress):
        with torch.no_grad():
            tokens = encoder.tokens(pixels).float().cpu()
        pooled.append(tokens[:, 0] if pool == "class" else tokens[:, prefix:].mean(1))
        labels.append(answers)
    return torch.cat(pooled), torch.cat(labels)


def _correct(encoder: Encoder, images: ImageSource, batch: int, progress: Progress) -> tuple[int, int]:
    """How many images are classified right, and how many could be read."""
    correct = count = 0
    for pixels, answers in _batches(encoder, images, batch, progress):
        with torch.no_grad():
            scores = encoder.logits(pixels).float().cpu()
        if int(answers.min()) < 0 or int(answers.max()) >= scores.shape[1]:
            raise FdlabError(
                f"The labels do not fit the model's {scores.shape[1]} classes.",
                f"They go from {int(answers.min())} to {int(answers.max())} (-1: none).",
                "Use labelled images of the classes that the model was trained on, in the same order.",
                code=NOT_UNDERSTOOD,
            )
        correct += int((scores.argmax(1) == answers).sum())
        count += len(answers)
    return correct, count


def _batches(
    encoder: Encoder, images: ImageSource, batch: int, progress: Progress | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, H, W) on the model's device and their labels (B,); unreadable images are left out."""
    side = encoder.info.image_size
    size = side if isinstance(side, int) else side[0]
    for start in range(0, len(images), batch):
        pixels, labels = images.stack(range(start, min(start + batch, len(images))), size)
        if len(pixels):
            yield encoder.normalise(pixels.to(encoder.device)), labels
            if progress:
                progress.advance(len(pixels))


def _row(label: str, encoder: Encoder, seed: int, correct: int, count: int) -> dict[str, Any]:
    """A model's share of right answers with Wilson's interval, as columns of the table."""
    share = proportion_interval(correct, count).row
    return {"model": label, "family": encoder.info.family, "seed": seed, **share, "n": count}
