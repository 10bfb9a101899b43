"""How good a classifier is on labelled images: accuracy, by class, confusions, calibration, its surest mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from fdlab.data.images import ImageSource
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.measures.calibration import calibration
from fdlab.progress import Progress
from fdlab.records.estimate import Estimate
from fdlab.records.intervals import proportion_interval
from fdlab.study.classifier import Classifier

PROBE = "training"


@dataclass(frozen=True)
class Answers:
    """What a classifier said of labelled images.

    ``positions`` (n,) of the images that could be read, ``labels`` (n,) and ``named`` (n,) as outputs of the
    classifier, ``shares`` (n, classes) softmax.
    """

    classes: tuple[str, ...]
    positions: np.ndarray
    labels: np.ndarray
    shares: np.ndarray

    @property
    def named(self) -> np.ndarray:
        """(n,) the likeliest class of each image."""
        return self.shares.argmax(1)

    @property
    def right(self) -> np.ndarray:
        """(n,) whether the likeliest class is the image's."""
        return self.named == self.labels

    @property
    def shown(self) -> list[int]:
        """The classes that are a label or an answer, in order: those of a confusion matrix that says something."""
        return sorted({*self.labels.tolist(), *self.named.tolist()})

    def confusion(self) -> pd.DataFrame:
        """Counts: a row a class of the images, a column a class that was named."""
        known = self.shown
        place = {label: number for number, label in enumerate(known)}
        counts = np.zeros((len(known), len(known)), dtype=int)
        for label, answer in zip(self.labels.tolist(), self.named.tolist(), strict=True):
            counts[place[label], place[answer]] += 1
        names = [self.classes[label] for label in known]
        return pd.DataFrame(counts, index=pd.Index(names, name="class"), columns=names)

    def mistakes(self, count: int = 20) -> pd.DataFrame:
        """The wrong answers with the largest shares: columns position, label, named, share."""
        wrong = np.flatnonzero(~self.right)
        shares = self.shares.max(1)
        kept = wrong[np.argsort(-shares[wrong], kind="stable")][:count]
        return pd.DataFrame(
            {
                "position": self.positions[kept],
                "label": [self.classes[label] for label in self.labels[kept]],
                "named": [self.classes[label] for label in self.named[kept]],
                "share": shares[kept],
            }
        )

    def rows(self, seed: int = 0) -> Iterator[dict[str, Any]]:
        """Rows of the table: accuracy, accuracy of each class (``objective``: its name), calibration."""
        right, n = self.right, len(self.labels)
        yield {"metric": "accuracy", **proportion_interval(int(right.sum()), n).row, "n": n}
        for label in np.unique(self.labels):
            mine = right[self.labels == label]
            share = proportion_interval(int(mine.sum()), len(mine)).row
            yield {"metric": "class_accuracy", **share, "n": len(mine), "objective": self.classes[label]}
        found = calibration(self.shares.max(1), right, seed)
        alone = Estimate(found.error, np.nan, np.nan)
        yield {"metric": "calibration_error", **alone.row, "n": n}
        yield {"metric": "calibration_error_by_chance", **found.chance.row, "n": n}
        yield {"metric": "overconfidence", **found.gap.row, "n": n}


def answers(
    classifier: Classifier, images: ImageSource, *, batch: int = 64, progress: Progress | None = None
) -> Answers:
    """A classifier's answers on labelled images. Classes are matched by name where both have names, else by number.

    Raises:
        FdlabError: code 3, images without labels, or labels beyond the classifier's; code 2, classes of other names.
    """
    outputs = _outputs(classifier, images)
    positions, labels, shares = [], [], []
    for logits, found, part in classifier.scores(images, batch):
        readable = images.readable(part)
        positions.append(np.asarray(readable))
        labels.append(outputs[found.numpy()])
        shares.append(logits.softmax(-1))
        if progress:
            progress.advance(len(part))
    return Answers(classifier.classes, np.concatenate(positions), np.concatenate(labels), torch.cat(shares).numpy())


def _outputs(classifier: Classifier, images: ImageSource) -> np.ndarray:
    """Label of the images -> output of the classifier."""
    labels = images.labels()
    count = len(classifier.classes)
    if not len(labels) or labels.min() < 0:
        raise FdlabError(
            f"The images of {images.spec} have no labels.",
            "An accuracy needs the right answers.",
            "Use class folders or a label column; for unlabelled images there is fdlab predict.",
            code=NOT_UNDERSTOOD,
        )
    if classifier.named and images.classes:
        strange = [name for name in images.classes if name not in classifier.classes]
        if strange:
            raise FdlabError(
                f"The classifier does not know {_few(strange)} of {images.spec}.",
                f"It was trained on {_few(list(classifier.classes))}.",
                "Give images of these classes, in folders of the same names.",
                code=USAGE,
            )
        return np.array([classifier.classes.index(name) for name in images.classes])
    if labels.max() >= count:
        raise FdlabError(
            f"The labels do not fit the model's {count} classes.",
            f"They go from {labels.min()} to {labels.max()}.",
            "Use labelled images of the classes that the model was trained on, in the same order.",
            code=NOT_UNDERSTOOD,
        )
    return np.arange(count)


def _few(names: list[str]) -> str:
    """``the class a``, or the first of many."""
    shown = ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"the class{'es' if len(names) > 1 else ''} {shown}"
