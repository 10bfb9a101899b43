"""Image folders: class folders or flat, with or without ``train`` and ``val`` (or ``test``) inside."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from fdlab.data.decode import SUFFIXES, Unreadable, decode, file_bytes, header_size
from fdlab.data.images import Images
from fdlab.data.listing import Listing, endings, listed
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
        found = [listed(part) for part in parts]
        self._files = [os.path.join(part, file) for part, each in zip(parts, found, strict=True) for file in each.files]
        if not self._files:
            raise _nothing_inside(path, found)
        classes = [_class_of(part, each) for part, each in zip(parts, found, strict=True)]
        self._parts = [len(each.files) for each in found]
        self._set_labels(parts, classes)
        _refuse_emptied(parts, found, classes)
        notes = [f"parts: {parts[0].name}/ and {parts[1].name}/"] if len(parts) == 2 else []
        for part, each, names in zip(parts, found, classes, strict=True):
            where = f"{part.name}/: " if len(parts) == 2 else ""
            empty = sorted(set(each.folders) - set(names)) if any(names) else []
            notes += [where + note for note in each.notes]
            notes += [f"{where}folders without an image are no classes: {', '.join(empty[:5])}"] if empty else []
        self.notes = tuple(notes) + ((self.unlabelled,) if self.unlabelled else ())
        self.native_size = peek(self.samples(), path)

    def _set_labels(self, parts: list[Path], classes: list[list[str | None]]) -> None:
        """Class numbers by the names of both parts; a part may have fewer classes, or none, but no other ones."""
        names = [tuple(sorted({name for name in part if name})) for part in classes]
        self.classes = max(names, key=len) or None
        strange = [
            (part.name, sorted(set(each) - set(self.classes or ()))) for part, each in zip(parts, names, strict=True)
        ]
        if other := [(part, found) for part, found in strange if found]:
            raise FdlabError(
                f"The parts of {self.path} have different classes.",
                why=f"Only {other[0][0]}/ has {shortened(other[0][1])}, beside {len(self.classes or ())} others.",
                fix="Give both parts the same class folders.",
                code=NOT_UNDERSTOOD,
            )
        if self.classes and not all(names):
            flat = parts[names.index(())].name
            self.unlabelled = (
                f"{flat}/ holds no class folders: its {self._parts[names.index(())]} images have no labels. Arrange "
                f"them in one folder a class, as the other part is, or name that part alone with #"
                f"{'test' if flat.lower() in TRAIN else 'train'}"
            )
        number = {name: label for label, name in enumerate(self.classes or ())}
        self._labels = np.array([number.get(name or "", -1) for part in classes for name in part], dtype=np.int64)

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda f=f: file_bytes(f) for f in spread(self._files)]  # type: ignore[misc]

    @property
    def files(self) -> list[str]:
        """The paths of the images, in order."""
        return self._files

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        content = hashlib.sha256()
        for file in self._files:
            relative = file[len(os.path.join(self.path, "")) :].replace(os.sep, "/")
            content.update(os.fsencode(f"{relative}\t{file_size(file)}\n"))
        return content.hexdigest()

    def read(self, index: int) -> Tensor:
        try:
            return decode(file_bytes(self._files[index]), self.value_range)
        except (OSError, Unreadable) as error:
            raise Unreadable(f"{self._files[index]}: {error}") from error


def file_size(file: str) -> int:
    """Bytes of a file; -1 where it went since its folder was listed: it is unreadable when its turn comes."""
    try:
        return os.stat(file).st_size
    except OSError:
        return -1


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


def _refuse_emptied(parts: list[Path], found: list[Listing], classes: list[list[str | None]]) -> None:
    """Refuses a class folder without an image in one part, where the other part has images of that class (code 3)."""
    for part, other, each, names in zip(parts, parts[::-1], found, classes[::-1], strict=True):
        emptied = (
            sorted(set(each.folders) - {file.partition(os.sep)[0] for file in each.files}) if len(parts) == 2 else []
        )
        if wrong := [name for name in emptied if name in names]:
            raise FdlabError(
                f"{len(wrong)} class folders in {part} hold no image.",
                why=f"{other.name}/ has images of these classes: {shortened(wrong)}.",
                fix=f"Put images there, or remove the empty folders: {part.name}/ may have fewer classes.",
                code=NOT_UNDERSTOOD,
            )


def _class_of(root: Path, found: Listing) -> list[str | None]:
    """The class folder of each file; None where there are no class folders.

    Raises:
        FdlabError (3): a folder beside class folders holds images alone that cannot be read: its class would vanish.
    """
    tops = [file.partition(os.sep)[0] for file in found.files]
    beside = any(top == file for top, file in zip(tops, found.files, strict=True))
    lost = sorted(set(found.left_out) & set(found.folders) - set(tops))
    if lost and not beside and tops:
        shown = "; ".join(f"{name}: {_why_lost(found, name)}" for name in lost[:3])
        raise FdlabError(
            f"{len(lost)} of the class folders in {root} would be left out.",
            why=f"No image in them can be read. {shown}",
            fix="Convert these images (to PNG or JPEG), correct the permissions, or move the folders elsewhere.",
            code=NOT_UNDERSTOOD,
        )
    with_classes = not beside and len(set(tops)) > 1
    return [top if with_classes else None for top in tops]


def _why_lost(found: Listing, name: str) -> str:
    reasons = found.left_out[name]
    kinds = Counter({why: count for why, count in reasons.items() if why.startswith(".")})
    words = [endings(kinds)] if kinds else []
    return ", ".join([*words, *(why for why in reasons if not why.startswith("."))])


def shortened(names: Sequence[str]) -> str:
    """At most five names.

    >>> shortened(["a", "b"])
    'a, b'
    """
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _nothing_inside(path: Path, found: list[Listing]) -> FdlabError:
    shards = sorted(path.rglob("*.parquet"))[:1] + sorted(path.rglob("*.tar"))[:1]
    hint = f" It holds {shards[0].name}: name that file." if shards else ""
    left = "; ".join(note for each in found for note in each.notes)
    return FdlabError(
        f"There is no image in {path}.",
        why=f"Looked for .jpg, .jpeg, .png, .webp, .tif and {len(SUFFIXES) - 5} other endings at any depth.{hint}"
        + (f" {left[0].upper()}{left[1:]}." if left else ""),
        fix="Give a folder of images or of class folders.",
        code=NOT_UNDERSTOOD,
    )
