"""Data sets by name: Hugging Face's (``hfds:NAME``) and torchvision's (``torchvision:NAME``).

Both are read from their libraries' own folders; torchvision downloads into ``~/.cache/fdlab`` what is not there.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fdlab.data.decode import Unreadable, decode, file_bytes
from fdlab.data.folders import peek, spread
from fdlab.data.images import Images
from fdlab.data.parquet import IMAGE_NAMES, LABEL_NAMES
from fdlab.errors import FAILED, NOT_UNDERSTOOD, USAGE, FdlabError, nearest


class HubSet(Images):
    """A data set of the Hugging Face Hub, or of its cache where there is no network: ``NAME`` or ``NAME/CONFIG``.

    Its ``train`` and ``test`` (or ``validation``) parts are ours. ``digest`` is the sha256 of the parts'
    fingerprints, which the library makes from the data and its preparation.

    Raises:
        FdlabError (1): the library is absent, or the set is neither cached nor reachable; (3): no image column.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name.replace("/", "-")
        parts = _hub_parts(name)
        self._sets = [parts[key] for key in ("train", *TESTS) if key in parts][:2] or list(parts.values())[:1]
        features = self._sets[0].features
        self._image = _column(features, IMAGE_NAMES, name)
        label = next((key for key in LABEL_NAMES if key in features), None)
        labels = [np.asarray(p[label], dtype=np.int64) if label else np.full(len(p), -1) for p in self._sets]
        self._labels, self._parts = np.concatenate(labels), [len(part) for part in self._sets]
        names = getattr(features[label], "names", None) if label else None
        self.classes = tuple(names) if names else None
        self.native_size = peek(self.samples(), Path(name))

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return hashlib.sha256("\n".join(str(part._fingerprint) for part in self._sets).encode()).hexdigest()

    def read(self, index: int) -> Tensor:
        return decode(self._bytes(index), self.value_range)

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda i=i: self._bytes(i) for i in spread(list(range(len(self))))]  # type: ignore[misc]

    def _bytes(self, index: int) -> bytes:
        part = int(index >= self._parts[0])
        cell = self._sets[part][int(index) - part * self._parts[0]][self._image]
        if cell.get("bytes") is not None:
            return cell["bytes"]
        try:
            return file_bytes(cell["path"])
        except (OSError, TypeError) as error:
            raise Unreadable(f"row {index}: {error}") from error


TESTS = ("test", "validation", "valid", "val")


def _hub_parts(name: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FdlabError(
            f"hfds:{name} needs the library datasets.",
            why="It is not installed.",
            fix='pip install "fdlab[data]"',
            code=FAILED,
        ) from error
    parts = name.split("/")
    owner_and_name, config = (
        ("/".join(parts[:2]), parts[2]) if len(parts) == 3 and not Path(name).exists() else (name, None)
    )
    try:
        # Never with code from the Hub; present versions of the library run none.
        loaded = datasets.load_dataset(owner_and_name, config)
    except Exception as error:  # the library's and the network's errors have no common base
        offline = any(os.environ.get(key) == "1" for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
        raise FdlabError(
            f"The data set hfds:{name} cannot be opened.",
            why=(str(error).splitlines() or [type(error).__name__])[0][:200]
            + (" (offline mode is on)" if offline else ""),
            fix="Check the name and the network, or fetch it once where there is one; a parquet file works without.",
            code=FAILED,
        ) from error
    return {key: _encoded(part) for key, part in loaded.items()}


def _encoded(part: Any) -> Any:
    """Image columns as stored bytes: decoding is ours."""
    import datasets

    for key, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            part = part.cast_column(key, datasets.Image(decode=False))
    return part


def _column(features: Any, known: tuple[str, ...], name: str) -> str:
    images = [key for key, feature in features.items() if type(feature).__name__ == "Image"]
    if not images:
        raise FdlabError(
            f"hfds:{name} has no image column.",
            why=f"Its columns: {', '.join(features)}.",
            fix="Give a data set of images.",
            code=NOT_UNDERSTOOD,
        )
    return min(images, key=lambda key: known.index(key) if key in known else len(known))


class TorchvisionSet(Images):
    """``CIFAR10``, ``CIFAR100``, ``MNIST``, ``FashionMNIST``, ``SVHN`` of torchvision, as one uint8 tensor.

    Raises:
        FdlabError (1): it is neither on disk nor reachable; (2): no such set.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        known = {each.lower(): each for each in WHOLE}
        if name.lower() not in known:
            raise FdlabError(
                f"torchvision:{name} is not one of those read here.{nearest(name, WHOLE)}",
                why=f"They are {', '.join(WHOLE)}.",
                fix="Other sets can be given as an image folder.",
                code=USAGE,
            )
        self.name = known[name.lower()]
        train, test = (_torchvision_part(self.name, train) for train in (True, False))
        self._images = torch.cat([_pixels(train), _pixels(test)])
        self._labels = np.concatenate([_targets(train), _targets(test)])
        self._parts = [len(_targets(train)), len(_targets(test))]
        self.classes = tuple(getattr(train, "classes", None) or map(str, range(int(self._labels.max()) + 1)))
        self.native_size = (int(self._images.shape[-2]), int(self._images.shape[-1]))

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        return hashlib.sha256(self._images.numpy().tobytes() + self._labels.tobytes()).hexdigest()

    def read(self, index: int) -> Tensor:
        return self._images[int(index)]

    def read_many(self, indices: np.ndarray) -> Tensor:
        return self._images[torch.from_numpy(np.asarray(indices, dtype=np.int64))]


WHOLE = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN")


def _torchvision_part(name: str, train: bool) -> Any:
    from contextlib import redirect_stdout

    from torchvision import datasets

    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fdlab" / "torchvision"
    which: dict[str, Any] = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
    try:
        with redirect_stdout(io.StringIO()):
            return getattr(datasets, name)(str(cache), download=True, **which)
    except Exception as error:  # URL, checksum, archive and disk errors
        raise FdlabError(
            f"torchvision:{name} cannot be opened.",
            why=(str(error).splitlines() or [type(error).__name__])[0][:200],
            fix=f"It is downloaded into {cache}; copy it there where there is no network.",
            code=FAILED,
        ) from error


def _pixels(part: Any) -> Tensor:
    """(N, 3, h, w) uint8."""
    data = torch.as_tensor(part.data)
    if data.ndim == 3:
        return data.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    return data.permute(0, 3, 1, 2).contiguous() if data.shape[-1] == 3 else data


def _targets(part: Any) -> np.ndarray:
    return np.asarray(part.targets if hasattr(part, "targets") else part.labels, dtype=np.int64)
