"""Single images as data, files or Pillow's own: in the order given, without labels."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fdlab.data.decode import Unreadable, decode, file_bytes
from fdlab.data.folders import Folder, file_size, spread
from fdlab.data.images import Images
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

if TYPE_CHECKING:
    from PIL.Image import Image


class Files(Images):
    """Image files, and all images of folders among them; an open image of Pillow is called ``image 1`` by its place.

    Raises:
        FdlabError (3): a file that is not there, or a folder without images.
    """

    def __init__(self, paths: Sequence[str | Path | Image]) -> None:
        super().__init__()
        self.paths: list[str] = []
        self._held: dict[str, bytes] = {}  # the open images
        for place, given in enumerate(paths, start=1):
            if not isinstance(given, (str, Path)):
                name = f"image {place}"
                self._held[name] = _encoded(given, name)
                self.paths.append(name)
            elif (path := Path(given)).is_dir():
                self.paths += Folder(path).files
            elif path.is_file():
                self.paths.append(str(path))
            else:
                raise FdlabError(
                    f"There is no image at '{path}'.",
                    "No file or folder has this name.",
                    "Check the path.",
                    code=NOT_UNDERSTOOD,
                )
        self.name = self.paths[0] if len(self.paths) == 1 else f"{len(self.paths)} files"
        self._labels = np.full(len(self.paths), -1, dtype=np.int64)

    @property
    def digest(self) -> str:
        """sha256 of the paths and sizes in bytes, of open images of their values."""
        lines = (self._held.get(path) or os.fsencode(f"{path}\t{file_size(path)}\n") for path in self.paths)
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda f=f: self._bytes(f) for f in spread(self.paths)]  # type: ignore[misc]

    def _bytes(self, path: str) -> bytes:
        return self._held[path] if path in self._held else file_bytes(path)

    def read(self, index: int) -> Tensor:
        try:
            return decode(self._bytes(self.paths[index]), self.value_range)
        except (OSError, Unreadable) as error:
            raise Unreadable(f"{self.paths[index]}: {error}") from error


def _encoded(image: Image, name: str) -> bytes:
    """An open image as a file in memory, without loss, so that it is read as a file is.

    Raises:
        FdlabError: code 2, it is no image of Pillow.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    if not isinstance(image, Pillow.Image):
        raise FdlabError(
            f"{name} is {type(image).__name__}.",
            "Pictures are files, folders or images that Pillow has opened.",
            "Give a path or PIL.Image; a tensor in [0, 1] goes to logits().",
            code=USAGE,
        )
    upright, held = ImageOps.exif_transpose(image), io.BytesIO()
    try:
        upright.save(held, "PNG")
    except OSError:  # a mode that PNG does not have
        upright.convert("RGB").save(held, "PNG")
    return held.getvalue()
