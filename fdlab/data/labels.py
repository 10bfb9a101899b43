"""A folder of images whose classes stand in a table: ``labels.csv`` with a path and a label a row."""

from __future__ import annotations

import csv
import hashlib
import os
from functools import cached_property
from pathlib import Path

import numpy as np

from fdlab.data.decode import SUFFIXES
from fdlab.data.folders import TEST, TRAIN, Folder, file_size, peek, shortened
from fdlab.data.listing import listed
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

PATHS, LABELS = ("path", "file", "filename", "image", "name", "file_name"), ("label", "class", "category", "target")


class LabelledFiles(Folder):
    """The images of a folder that a table names, in the order of their paths, with its labels; the others are left out.

    Paths count from the folder or, where the table's own folder has them, from there. The sorted labels are the
    classes. Files in ``train/`` and ``val/`` (or ``test/``) are such parts, as they are in a ``Folder``.

    Raises:
        FdlabError (3): rows without a label, two labels of one file, files that are not there, no table.
    """

    def __init__(self, path: Path, table: Path) -> None:
        super(Folder, self).__init__()
        self.path, self.name = Path(os.path.abspath(path)), path.name
        self._table = table
        labels, doubled = _read(table, self.path)
        train, test = _parts(labels)
        self._parts = [len(train), len(test)] if train and test else [len(labels)]
        order = [*train, *test] if train and test else sorted(labels)
        self._files = [os.path.join(self.path, file) for file in order]
        self.classes = tuple(sorted(set(labels.values())))
        number = {name: place for place, name in enumerate(self.classes)}
        self._labels = np.array([number[labels[file]] for file in order], dtype=np.int64)
        unnamed = len(set(listed(self.path).files) - set(labels))
        self.notes = (f"labels: {table.name}, {len(order)} images",)
        if unnamed:
            self.notes += (f"left out: {unnamed} images that {table.name} does not name",)
        if doubled:
            self.notes += (f"{doubled} rows of {table.name} name a file again, with the same label",)
        self.native_size = peek(self.samples(), self.path)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        content = hashlib.sha256(b"labels of a table")
        for file, label in zip(self._files, self._labels.tolist(), strict=True):
            named = f"{os.path.relpath(file, self.path)}\t{file_size(file)}\t{(self.classes or ())[label]}\n"
            content.update(os.fsencode(named))
        return content.hexdigest()


def _read(table: Path, folder: Path) -> tuple[dict[str, str], int]:
    """Path below the folder -> label, and how many rows repeat one."""
    rows = _rows(table)
    labels: dict[str, str] = {}
    empty, twice, missing, repeated = [], [], [], 0
    for number, path, label in rows:
        found = _place(path, folder, table.parent)
        if not label:
            empty.append(f"row {number} ({path or 'no path'})")
        elif found is None:
            missing.append(path or f"row {number}")
        elif labels.setdefault(found, label) != label:
            twice.append(path)
        else:
            repeated += 1
    for wrong, what, fix in (
        (
            missing,
            f"names {len(missing)} files that are not there",
            f"Paths count from {folder} or from {table.parent}.",
        ),
        (empty, f"has {len(empty)} rows without a label", "Write a label in each of them, or leave the rows out."),
        (twice, f"gives {len(twice)} files more than one label", "Keep one row a file."),
    ):
        if wrong:
            raise FdlabError(f"{table} {what}.", f"{shortened(wrong)}.", fix, NOT_UNDERSTOOD)
    return labels, repeated - len(labels)


def _rows(table: Path) -> list[tuple[int, str, str]]:
    """Line number, path and label of every row below the header, where there is one."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FdlabError(
            f"The labels {table} cannot be read.", str(error), "Give --labels a CSV file: path,label.", NOT_UNDERSTOOD
        ) from error
    first = text.partition("\n")[0]
    comma = max(",;\t", key=first.count)
    lines = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=comma)]
    path, label, start = _columns(lines[0]) if lines else (0, 1, 0)
    rows = []
    for number, cells in enumerate(lines[start:], start + 1):
        if any(cells):
            file, name = (cells[place] if place < len(cells) else "" for place in (path, label))
            rows.append((number, file, name))
    if not rows or all(len(cells) < 2 for cells in lines):
        raise FdlabError(
            f"There are no labels in {table}.",
            "It needs two columns, path and label." if rows else "It has no rows.",
            "Write a row an image, for example cats/1.jpg,cat.",
            NOT_UNDERSTOOD,
        )
    return rows


def _columns(first: list[str]) -> tuple[int, int, int]:
    """Where path and label stand, and the first row of data: the second where the first names no image.

    >>> _columns(["a.png", "cat"]), _columns(["id", "Label", "Path"])
    ((0, 1, 0), (2, 1, 1))
    """
    names = [cell.lower() for cell in first]
    if any(Path(name).suffix in SUFFIXES for name in names):
        return 0, 1, 0
    path = next((place for place, name in enumerate(names) if name in PATHS), 0)
    others = [place for place in range(len(names)) if place != path]
    label = next((place for place in others if names[place] in LABELS), min(others, default=1))
    return path, label, 1


def _place(path: str, folder: Path, beside: Path) -> str | None:
    """The path below the folder of a file that is there, else None. A file outside of the folder counts as missing."""
    for root in (folder, beside):
        file = os.path.normpath(os.path.join(os.path.abspath(root), os.path.expanduser(path)))
        relative = os.path.relpath(file, folder)
        if path and os.path.isfile(file) and not relative.startswith(os.pardir):
            return relative
    return None


def _parts(labels: dict[str, str]) -> tuple[list[str], list[str]]:
    """The files of ``train/`` and of ``val/`` or ``test/``; empty where not all files lie in two such parts."""
    tops = {file: file.partition(os.sep)[0].lower() for file in sorted(labels)}
    train, test = ([file for file, top in tops.items() if top in names] for names in (TRAIN, TEST))
    if len(set(tops.values())) != 2 or not train or not test:
        return [], []
    return train, test
