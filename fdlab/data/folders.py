"""Image folders: class folders or flat, with or without ``train`` and ``val`` (or ``test``) inside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from fdlab.data.decode import SUFFIXES, Unreadable, decode, header_size
from fdlab.data.images import Images
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

TRAIN, TEST = ("train", "training"), ("val", "validation", "valid", "test", "testing")
PEEKED = 16


class Folder(Images):
    """All images below a folder, in the order of their sorted paths; read when asked for.

    Two or more subfolders with images, and none beside them: their names are the classes. Otherwise there
    are no labels. With ``train`` and ``val`` (or ``test``) inside, each is such a folder and the split is
    given; without ``#train`` or ``#test`` both are used, training images first. ``digest`` is the sha256 of
    relative paths and sizes in bytes, not of the pixels.

    Raises:
        FdlabError (3): no image inside, or none of 16 looked at is one.
    """

    _parts_note = "the folder's own parts"

    def __init__(self, path: Path) -> None:
        super().__init__()
        path = Path(os.path.abspath(path))
        self.path, self.name = path, path.name
        parts = _parts(path)
        scanned = [_scan(part) for part in parts]
        self._files = [os.path.join(part, f) for part, (files, _) in zip(parts, scanned, strict=True) for f in files]
        if not self._files:
            raise _nothing_inside(path)
        self._parts = [len(files) for files, _ in scanned]
        if len(parts) == 2:
            self.notes = (f"parts: {parts[0].name}/ and {parts[1].name}/",)
        names = [tuple(sorted({c for c in classes if c})) for _, classes in scanned]
        self.classes = max(names, key=len) or None
        if self.classes and any(set(n) - set(self.classes) for n in names):
            raise FdlabError(
                f"The parts of {path} have different classes.",
                why=f"{len(names[0])} and {len(names[-1])} class folders.",
                fix="Give both parts the same class folders.",
                code=NOT_UNDERSTOOD,
            )
        number = {name: label for label, name in enumerate(self.classes or ())}
        self._labels = np.array([number.get(c or "", -1) for _, classes in scanned for c in classes], dtype=np.int64)
        self.native_size = peek([lambda f=f: Path(f).read_bytes() for f in spread(self._files)], path)

    @property
    def files(self) -> list[str]:
        """The paths of the images, in order."""
        return self._files

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        content = hashlib.sha256()
        for file in self._files:
            relative = file[len(os.path.join(self.path, "")) :].replace(os.sep, "/")
            content.update(os.fsencode(f"{relative}\t{os.stat(file).st_size}\n"))
        return content.hexdigest()

    def read(self, index: int) -> Tensor:
        try:
            return decode(Path(self._files[index]).read_bytes())
        except (OSError, Unreadable) as error:
            raise Unreadable(f"{self._files[index]}: {error}") from error


def spread(items: list) -> list:
    """At most 16 of the items, evenly spaced.

    >>> spread(list(range(31)))
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30]
    """
    return [items[i] for i in sorted({round(p) for p in np.linspace(0, len(items) - 1, PEEKED)})]


def peek(readers: list, path: Path) -> tuple[int, int] | None:
    """(h, w) if these images agree on it. Raises FdlabError (3) when none of them is an image."""
    sizes, reason = [], ""
    for reader in readers:
        try:
            sizes.append(header_size(reader()))
        except (Unreadable, OSError) as error:
            reason = str(error)
    if not sizes:
        raise FdlabError(
            f"None of {len(readers)} images looked at in {path} can be read.",
            why=f"The last reason: {reason}",
            fix="Check that these are image files and complete.",
            code=NOT_UNDERSTOOD,
        )
    return sizes[0] if len(set(sizes)) == 1 else None


def _parts(path: Path) -> list[Path]:
    """[train, test] when the folder has both, [its only part], else [the folder]."""
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    train = [p for p in inside if p.name.lower() in TRAIN]
    test = sorted((p for p in inside if p.name.lower() in TEST), key=lambda p: TEST.index(p.name.lower()))
    if train and test:
        return [train[0], test[0]]
    if len(inside) == 1 and (train or test):
        return inside
    return [path]


def _scan(root: Path) -> tuple[list[str], list[str | None]]:
    """Image files by sorted relative path, and the class folder of each (None: no classes)."""
    files = sorted(_walk(root))
    tops = [file.partition(os.sep)[0] for file in files]
    with_classes = all(top != file for top, file in zip(tops, files, strict=True)) and len(set(tops)) > 1
    return files, [top if with_classes else None for top in tops]


def _walk(root: Path) -> Iterator[str]:
    """Paths relative to ``root``; strings, since there may be a million."""
    seen: set[str] = set()  # class folders are often links; a link to a folder above must not go round
    for folder, inside, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = [d for d in inside if not d.startswith(".")]
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in SUFFIXES:
                yield os.path.relpath(os.path.join(folder, file), root)


def _nothing_inside(path: Path) -> FdlabError:
    shards = sorted(path.rglob("*.parquet"))[:1] + sorted(path.rglob("*.tar"))[:1]
    hint = f" It holds {shards[0].name}: name that file." if shards else ""
    return FdlabError(
        f"There is no image in {path}.",
        why=f"Looked for {', '.join(sorted(SUFFIXES))} at any depth.{hint}",
        fix="Give a folder of images or of class folders.",
        code=NOT_UNDERSTOOD,
    )
