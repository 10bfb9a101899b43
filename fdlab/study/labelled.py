"""Labelled images of one's own: which of them fit and which judge, and what makes them unusable.

Fine-tuning, ``evaluate knn|linear`` and ``choose`` have one rule: the parts that a folder has (``train/`` with ``val/``
or ``test/``), else a fifth of the images, in the proportions of the classes and at least one of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fdlab.data.folders import shortened
from fdlab.data.images import ImageSource
from fdlab.data.sources import open_data, parse_spec
from fdlab.data.splits import split_labelled
from fdlab.errors import NOT_UNDERSTOOD, FdlabError
from fdlab.study.inputs import check_held_out

HELD_OUT = 0.2  # share of the images that judge where nothing else is said
MOST_HELD_OUT = 5000


@dataclass(frozen=True)
class Judged:
    """Images to fit on, others to judge by, and a sentence on how they were divided."""

    data: ImageSource
    held: ImageSource
    says: str


def judged(data: str, test: str = "", *, seed: int = 0) -> Judged:
    """The images of ``data``, and those of ``test`` or, where none is named, the ones that the data holds out itself.

    Args:
        data: DATA. test: DATA, or empty.
        seed: of data that are drawn; the split has none: it is the same for every model and command.

    Raises:
        FdlabError: code 2, test images that are fitted on, or of other classes; code 3, images without labels, of one
            class, or of classes that cannot be divided.
    """
    spec = parse_spec(data)
    if not test and (spec.base == "digits" or open_data(data, seed=seed).own_parts) and spec.split != "test":
        if not spec.split:
            data = str(replace(spec, split="train"))
        test = str(replace(spec, split="test", start=None, stop=None))
    source = open_data(data, seed=seed)
    check_classes(source)
    if not test:
        fits, judges = split(source)
        says = f"{len(fits)} images are fitted on and {len(judges)} others judge, in the proportions of the classes"
        return Judged(fits, judges, f"{data} was divided: {says}")
    held = open_data(test, seed=seed)
    check_labels(held)
    held = check_held_out(source, held)
    return Judged(source, held, f"{len(source)} images of {data} are fitted on and {len(held)} of {test} judge")


def split(data: ImageSource) -> tuple[ImageSource, ImageSource]:
    """The images to fit on and those that judge, as fine-tuning divides them without a validation part.

    Raises:
        FdlabError: code 3, a class of one image.
    """
    check_divisible(data)
    labels = data.labels()
    held = split_labelled(labels, per_class=0, validation=held_out(data), seed=0)[1]
    return data.subset(np.setdiff1d(np.arange(len(labels)), held)), data.subset(held)


def held_out(data: ImageSource) -> int:
    """How many images judge: a fifth, and one a class at least."""
    return min(max(MOST_HELD_OUT, _classes(data)), max(round(HELD_OUT * len(data)), _classes(data)))


def check_labels(data: ImageSource) -> None:
    """Refuses images of which some have no label (code 3)."""
    labels = data.labels()
    if len(labels) and labels.min() >= 0:
        return
    raise FdlabError(
        f"{'Some' if len(labels) and labels.max() >= 0 else 'The'} images of {data.spec} have no labels.",
        f"{data.unlabelled}."
        if data.unlabelled
        else "Classes are two folders or more beside each other, or the labels of a table.",
        "Arrange the images in one folder a class, or give --labels CSV.",
        code=NOT_UNDERSTOOD,
    )


def check_classes(data: ImageSource) -> None:
    """Refuses images that are not all labelled, or all of one class (code 3)."""
    check_labels(data)
    labels = np.unique(data.labels())
    if len(labels) < 2:
        raise FdlabError(
            f"All images of {data.spec} are of one class.",
            f"It is {_name(data, int(labels[0]))!r}: there is nothing to tell apart.",
            "Give images of two classes or more, in one folder each, or with --labels CSV.",
            code=NOT_UNDERSTOOD,
        )


def check_divisible(data: ImageSource) -> None:
    """Refuses classes of one image, where the images are to be divided (code 3)."""
    numbers, counts = np.unique(data.labels(), return_counts=True)
    if few := [_name(data, int(number)) for number in numbers[counts < 2]]:
        raise FdlabError(
            f"{data.spec} has classes of one image: {shortened(few)}.",
            "One image cannot both be fitted on and judge.",
            "Add images to these classes, leave them out, or name the images that judge with --test.",
            code=NOT_UNDERSTOOD,
        )


def check_pixels(data: ImageSource, patch: int) -> None:
    """Refuses images that are smaller than one patch of the model (code 3): enlarged, they hold no form.

    Up to 16 images are looked at; it takes all of them. Unreadable ones are told of later.
    """
    sides = _sides(data)
    if sides and max(sides) < patch:
        raise FdlabError(
            f"The images of {data.spec} are smaller than one patch of the model.",
            f"Their short sides are {min(sides)} to {max(sides)} pixels, the model's patches {patch}.",
            "Give the pictures at their original size, or a model of smaller patches.",
            code=NOT_UNDERSTOOD,
        )


def median_side(data: ImageSource) -> int:
    """The median short side in pixels of up to 16 images. Raises FdlabError (3) where none of them can be read."""
    sides = _sides(data)
    if not sides:
        data.image(0)
    return int(np.median(sides))


def _sides(data: ImageSource) -> list[int]:
    """The short sides of up to 16 images, evenly spaced; unreadable ones are left out."""
    sides = []
    for place in np.unique(np.linspace(0, min(len(data), 1 << 20) - 1, 16).astype(int)):
        try:
            sides.append(min(data.image(int(place)).shape[-2:]))
        except FdlabError:
            continue
    return sides


def _classes(data: ImageSource) -> int:
    return len(np.unique(data.labels()))


def _name(data: ImageSource, label: int) -> str:
    return data.classes[label] if data.classes else str(label)
