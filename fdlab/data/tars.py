"""Tar files in the WebDataset convention: ``KEY.jpg`` beside ``KEY.cls``, in one or many shards.

Members are read by their place in the file, so that any image can be asked for; a shard is indexed once by the
headers alone. Only image, ``.cls`` and ``.json`` members are read; a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from fdlab.data.decode import SUFFIXES, Unreadable, decode
from fdlab.data.folders import peek, spread
from fdlab.data.images import Images
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

Place = tuple[int, int, int]  # shard, offset of the content, size
MOST_SHARDS = 100_000  # each is looked for before the first is read: some seconds
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Tars(Images):
    """All images of the shards, in the order of the shards and of their members.

    The key of a member is its path up to the first dot of its last part. A label is the integer in ``KEY.cls`` or
    under ``label`` (or ``cls``) in ``KEY.json``; without one the image has none. ``digest`` is the sha256 of the
    shards' names and sizes and of the members' keys and sizes, not of the pixels.

    Raises:
        FdlabError (3): a shard is damaged or compressed, two members have one key, or no image is inside.
    """

    digest = ""  # type: ignore[assignment]

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths, self.name = tuple(paths), paths[0].stem
        self._places: list[Place] = []
        labels: list[int] = []
        content = hashlib.sha256()
        for shard, path in enumerate(self.paths):
            content.update(f"{path.name}\t{path.stat().st_size}\n".encode())
            for key, place, label in _members(shard, path):
                content.update(os.fsencode(f"{key}\t{place[2]}\n"))
                self._places.append(place)
                labels.append(label)
        if not self._places:
            raise FdlabError(
                f"There are no images in {paths[0]}.",
                why="Members ending in .jpg, .jpeg, .png or .webp are looked for.",
                fix="Give a tar file of KEY.jpg and KEY.cls members.",
                code=NOT_UNDERSTOOD,
            )
        self._labels, self.digest = np.array(labels, dtype=np.int64), content.hexdigest()
        self.native_size = peek(self.samples(), paths[0])

    def read(self, index: int) -> Tensor:
        return decode(self._content(index), self.value_range)

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda i=i: self._content(i) for i in spread(list(range(len(self))))]  # type: ignore[misc]

    def _content(self, index: int) -> bytes:
        shard, offset, size = self._places[index]
        if size < 0:
            raise Unreadable(f"{self.paths[shard]}: image {index} claims bytes that the file does not have")
        try:
            # Opened each time: an open file shared by forked loader workers would share its position.
            with self.paths[shard].open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise Unreadable(f"{self.paths[shard]}: {error}") from error


def _members(shard: int, path: Path) -> list[tuple[str, Place, int]]:
    """(key, place, label) of each image of one shard."""
    images: dict[str, Place] = {}
    length = path.stat().st_size
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                whole = not member.issparse() and _inside(member, length)
                key, ending = _split(member.name)
                if f".{ending}" in SUFFIXES:
                    if key in images:
                        raise FdlabError(
                            f"{path} holds two images with the key {key}.",
                            fix="Give each image a key of its own.",
                            code=NOT_UNDERSTOOD,
                        )
                    images[key] = (shard, member.offset_data, member.size if whole else -1)
                elif ending in ("cls", "json") and whole and member.size < 1 << 20:
                    file = tar.extractfile(member)
                    assert file is not None
                    labels[key] = _label(file.read(), ending, labels.get(key, -1))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError, KeyError) as error:
        compressed = path.suffix in (".gz", ".tgz", ".zst", ".bz2", ".xz")
        raise FdlabError(
            f"{path} cannot be read as a tar file.",
            why="It is compressed: members of such a file cannot be reached one by one." if compressed else str(error),
            fix="Decompress it first." if compressed else "Check that the download is complete.",
            code=NOT_UNDERSTOOD,
        ) from error
    return [(key, place, labels.get(key, -1)) for key, place in images.items()]


def _inside(member: tarfile.TarInfo, length: int) -> bool:
    """Whether the member's bytes are there: an extended header may claim any size."""
    return member.size >= 0 and member.offset_data >= 0 and member.offset_data + member.size <= length


def _split(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.parent / stem), ending.lower()


def _label(content: bytes, ending: str, before: int) -> int:
    try:
        if ending == "cls":
            label = int(content)
        else:
            notes = json.loads(content)
            label = int(notes.get("label", notes.get("cls", before)))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return before
    return label if abs(label) < 2**63 else before


def shards(pattern: str) -> list[Path]:
    """The shards of a path, of a ``*`` pattern or of WebDataset's ``{000..009}``.

    >>> [path.name for path in shards("train-{09..11}.tar")]
    ['train-09.tar', 'train-10.tar', 'train-11.tar']
    """
    braces = _BRACES.search(pattern)
    if braces:
        _few_enough(pattern)
        first, last = braces[1], braces[2]
        numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
        return [path for n in numbers for path in shards(pattern[: braces.start()] + n + pattern[braces.end() :])]
    if any(sign in pattern for sign in "*?") and not Path(pattern).exists():
        return [Path(path) for path in sorted(glob(os.path.expanduser(pattern)))]
    return [Path(pattern).expanduser()]


def _few_enough(pattern: str) -> None:
    """Raises FdlabError (2) for a pattern that names more shards than one looks for."""
    count = 1
    for first, last in _BRACES.findall(pattern):
        count *= int(last) - int(first) + 1 if max(len(first), len(last)) < 10 else MOST_SHARDS + 1
    if count > MOST_SHARDS:
        raise FdlabError(
            f"'{pattern[:200]}' names more than {MOST_SHARDS:,} shards.",
            fix="Name fewer, or use a pattern with *.",
            code=USAGE,
        )
