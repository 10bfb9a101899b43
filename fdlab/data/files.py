"""Single image files as data: in the order given, without labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from fdlab.data.decode import Unreadable, decode, file_bytes
from fdlab.data.folders import Folder, file_size, spread
from fdlab.data.images import Images
from fdlab.errors import NOT_UNDERSTOOD, FdlabError


class Files(Images):
    """Image files, and all images of folders among them.

    Raises:
        FdlabError (3): a file that is not there, or a folder without images.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        super().__init__()
        self.paths: list[str] = []
        for path in map(Path, paths):
            if path.is_dir():
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
        """sha256 of the paths and sizes in bytes."""
        lines = (os.fsencode(f"{path}\t{file_size(path)}\n") for path in self.paths)
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda f=f: file_bytes(f) for f in spread(self.paths)]  # type: ignore[misc]

    def read(self, index: int) -> Tensor:
        try:
            return decode(file_bytes(self.paths[index]), self.value_range)
        except (OSError, Unreadable) as error:
            raise Unreadable(f"{self.paths[index]}: {error}") from error
