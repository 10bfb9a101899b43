"""``fdlab evaluate``: k nearest neighbours and a linear probe on frozen features; the model's own classifier."""

from __future__ import annotations

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
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.classifier import knn_predict, logistic_predict
from fdlab.progress import Progress
from fdlab.records.atomic import replacing, writable_folder
from fdlab.records.intervals import proportion_interval
from fdlab.records.run_folder import own_folder
from fdlab.records.table import frame, write_table
from fdlab.study.accuracy import Answers, answers
from fdlab.study.classifier import load_classifier
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
    held = check_held_out(train, held)
    rows = []
    for text in models:
        label, source = parse_label(text)
        encoder = check_colour(open_model(source, device=device, seed=seed))
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
    for each in (train, held):
        each.say_what_is_left_out()
    return frame(rows)


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
    if pool not in ("patches", "class"):
        raise FdlabError(f"There is no pooling {pool!r}.", fix="Give --pool patches or --pool class.", code=USAGE)
    prefix = encoder.info.prefix_tokens
    if pool == "class" and not prefix:
        raise FdlabError("This model has no class token.", fix="Give --pool patches.", code=USAGE)
    pooled, labels = [], []
    for pixels, numbers in _batches(encoder, images, batch, progress):
        with torch.no_grad():
            tokens = encoder.tokens(pixels).float().cpu()
        pooled.append(tokens[:, 0] if pool == "class" else tokens[:, prefix:].mean(1))
        labels.append(numbers)
    return torch.cat(pooled), torch.cat(labels)


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
