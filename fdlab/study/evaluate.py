"""``fdlab evaluate``: k nearest neighbours and a linear probe on frozen features; the model's own classifier."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.sources import parse_label
from fdlab.data.images import ImageSource
from fdlab.data.sources import open_data
from fdlab.encoders.channels import check_colour
from fdlab.encoders.encoder import Encoder
from fdlab.errors import USAGE, FdlabError
from fdlab.measures.classifier import knn_predict, logistic_predict
from fdlab.progress import Progress
from fdlab.records.atomic import replacing, writable_folder
from fdlab.records.intervals import proportion_interval
from fdlab.records.run_folder import own_folder
from fdlab.records.table import frame, write_table
from fdlab.study.accuracy import Answers, answers
from fdlab.study.classifier import load_classifier
from fdlab.study.labelled import check_classes, check_pixels, judged

METRIC = {"knn": "knn", "linear": "linear_probe"}


def evaluate(
    kind: str,
    models: Sequence[str],
    data: str,
    test: str = "",
    *,
    pool: str = "patches",
    images: int = 0,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = True,
    k: int = 20,
) -> pd.DataFrame:
    """Accuracy of a model's frozen features on images that were not fitted on; one row a model.

    Args:
        kind: "knn" or "linear".
        models: ``SOURCE`` or ``label=SOURCE``.
        data: labelled images to fit on. test: those that judge; empty: the data's own part for it, else a fifth of
            ``data``, in the proportions of the classes (``labelled.py``).
        pool: which token: the mean of the patches or the class token; it changes the ranking.
        images: at most so many training images, chosen by the seed; 0: all.

    Raises:
        FdlabError: code 2, a pooling that a model has not, or test images that are trained on; code 3, images
            without labels, of one class, of classes of one image or smaller than a patch, or a model or images that
            cannot be read. All of these are known before the first forward pass.
    """
    split = judged(data, test, seed=seed)
    train, held = split.data, split.held
    if images:
        train = train.sample(images, seed)
        check_classes(train)
    warnings.warn(split.says, stacklevel=2)
    sources = [parse_label(text) for text in models]
    if len(sources) > 1:  # the last may be the one that cannot be measured
        for _, source in sources:
            _opened(source, device, seed, pool, train)
    rows = []
    for label, source in sources:
        encoder = _opened(source, device, seed, pool, train)
        with Progress(label, len(train) + len(held), quiet=quiet) as progress:
            x, y = features(encoder, train, pool=pool, progress=progress)
            x_test, y_test = features(encoder, held, pool=pool, progress=progress)
        predicted = predict(kind, x, y, x_test, k=k)
        correct = int(np.sum(predicted == y_test.numpy()))
        objective = f"{pool} tokens, {len(y)} labelled images"
        row = _row(label, encoder, seed, correct, len(y_test))
        rows.append({**row, "probe": "features", "metric": METRIC[kind], "objective": objective})
    for each in (train, held):
        each.say_what_is_left_out()
    return frame(rows)


def predict(kind: str, train: Tensor, labels: Tensor, test: Tensor, *, k: int = 20) -> np.ndarray:
    """Classes (T,) of features (T, C) by k nearest neighbours ("knn") or a linear probe ("linear") of ``train``."""
    if kind == "knn":
        return knn_predict(train, labels, test, k=k).numpy()
    return logistic_predict(train.numpy(), labels.numpy(), test.numpy())


def _opened(source: str, device: str, seed: int, pool: str, images: ImageSource) -> Encoder:
    """A model that these images can be asked of."""
    encoder = check_colour(open_model(source, device=device, seed=seed))
    check_pool(encoder, pool)
    check_pixels(images, encoder.info.patch_size)
    return encoder


def classifier(
    models: Sequence[str], test: str, *, seed: int = 0, device: str = "cpu", quiet: bool = True, batch: int = 64
) -> tuple[pd.DataFrame, dict[str, Answers]]:
    """How good each model's own classifier is on ``test``.

    Args:
        models: ``SOURCE`` or ``label=SOURCE``: finished fine-tunings, or files that hold a classifier.

    Returns:
        The table (``Answers.rows`` of each model) and label -> ``Answers``.

    Raises:
        FdlabError: code 3, a model without classifier, images without labels, or labels beyond the model's classes;
            code 2, images of classes that the model does not know by name.
    """
    held = open_data(test, seed=seed)
    rows, said = [], {}
    for text in models:
        label, source = parse_label(text)
        opened = load_classifier(source, device=device, seed=seed)
        with Progress(label, len(held), quiet=quiet) as progress:
            said[label] = answers(opened, held, batch=batch, progress=progress)
        same = {"model": label, "family": opened.encoder.info.family, "seed": seed, "probe": "training"}
        rows += [{**same, **row} for row in said[label].rows(seed)]
    held.say_what_is_left_out()
    return frame(rows), said


def write_answers(
    out: Path | str, table: pd.DataFrame, answers: Mapping[str, Answers], test: str, *, seed: int = 0
) -> list[Path]:
    """Writes a classifier's answers: ``table.csv``, and for each model its confusions and surest mistakes.

    Args:
        out: the folder. table, answers: as ``classifier`` returned them. test: the images, as it was given them.

    Returns:
        The files.
    """
    from fdlab.report.classified import confusion_figure, mistakes_figure
    from fdlab.report.style import save_figure

    folder, images = writable_folder(out), open_data(test, seed=seed)
    write_table(folder / "table.csv", table)
    files = [folder / "table.csv"]
    for label, said in answers.items():
        name = own_folder(label)
        counts, wrong = said.confusion(), said.mistakes()
        for ending, rows in (("confusions", counts.reset_index()), ("mistakes", wrong)):
            path = folder / f"{name}-{ending}.csv"
            with replacing(path) as draft:
                rows.to_csv(draft, index=False, float_format="%.6g")
            files.append(path)
        pictures = [images.image(int(position)).permute(1, 2, 0).numpy() for position in wrong["position"]]
        files += save_figure(confusion_figure(counts), folder, f"{name}-confusions", ("png",))
        if pictures:
            files += save_figure(mistakes_figure(wrong, pictures), folder, f"{name}-mistakes", ("png",))
    return files


def features(
    encoder: Encoder, images: ImageSource, *, pool: str = "patches", batch: int = 64, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """(n, C) pooled tokens after the final norm, and (n,) labels; the evaluation view, no gradient.

    Raises:
        FdlabError: code 2, no such pooling, or no class token to take.
    """
    check_pool(encoder, pool)
    prefix = encoder.info.prefix_tokens
    pooled, labels = [], []
    for pixels, numbers in _batches(encoder, images, batch, progress):
        with torch.no_grad():
            tokens = encoder.tokens(pixels).float().cpu()
        pooled.append(tokens[:, 0] if pool == "class" else tokens[:, prefix:].mean(1))
        labels.append(numbers)
    return torch.cat(pooled), torch.cat(labels)


def check_pool(encoder: Encoder, pool: str) -> None:
    """Refuses a pooling that there is not, or that this model has not (code 2)."""
    if pool not in ("patches", "class"):
        raise FdlabError(f"There is no pooling {pool!r}.", fix="Give --pool patches or --pool class.", code=USAGE)
    if pool == "class" and not encoder.info.prefix_tokens:
        raise FdlabError("This model has no class token.", fix="Give --pool patches.", code=USAGE)


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
