"""The grammar of ``--data``: one line of text -> an ``ImageSource``.

    digits | photos | locality:ALPHA | FOLDER | FILE.parquet | SHARDS.tar | hfds:NAME | torchvision:NAME,
    then optionally ?labels=FILE.csv (classes of a folder's images, path,label a row), ?range=LOW:HIGH (black and
    white of images of more than 8 bits), #train or #test, [A:B]

The built-in names win over folders of the same name (write ./digits for the folder).
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from fdlab.data.decode import SUFFIXES
from fdlab.data.depth import Range
from fdlab.data.images import Images, ImageSource, Indices
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError, nearest

__all__ = ["ImageSource", "Spec", "open_data", "parse_spec", "with_split"]

BUILTIN = ("digits", "photos", "locality:0", "locality:0.5", "locality:1")
_TAIL = re.compile(
    r"^(?P<base>.+?)(?:\?labels=(?P<labels>[^?#\[\]]+))?(?:\?range=(?P<low>[^:#\[\]]*):(?P<high>[^:#\[\]]*))?(?:#(?P<split>[^#\[\]/\\]*))?(?:\[(?P<a>(?:-?\d+)?):(?P<b>(?:-?\d+)?)\])?$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Spec:
    """``base`` (a built-in name or a path), ``split`` (train, test, None), ``start``, ``stop`` of a slice, a range,
    and the table of the labels."""

    base: str
    split: str | None = None
    start: int | None = None
    stop: int | None = None
    value_range: Range | None = None
    labels: str | None = None

    def __str__(self) -> str:
        ends = ["" if end is None else str(end) for end in (self.start, self.stop)]
        part = "" if (self.start, self.stop) == (None, None) else f"[{ends[0]}:{ends[1]}]"
        scale = f"?range={self.value_range[0]:g}:{self.value_range[1]:g}" if self.value_range else ""
        table = f"?labels={self.labels}" if self.labels else ""
        return self.base + table + scale + (f"#{self.split}" if self.split else "") + part


def parse_spec(text: str) -> Spec:
    """Split a specification into its parts. Raises FdlabError (2) on a malformed one.

    >>> parse_spec("digits#test[:100]")
    Spec(base='digits', split='test', start=None, stop=100, value_range=None, labels=None)
    >>> parse_spec("xrays?range=0:4095#train").value_range
    (0.0, 4095.0)
    """
    if text.strip() and _exists(text):  # a path that holds # or [ in its name
        return Spec(text)
    found = _TAIL.match(text.strip())
    if not found:
        raise FdlabError("No data was named.", fix="Give --data digits, a folder or a file.parquet.", code=USAGE)
    base, split = found["base"], found["split"]
    if split is not None and split not in ("train", "test"):
        raise FdlabError(
            f"'#{split}' is not a part of {base}.",
            why="Parts are #train and #test." + nearest(split, ("train", "test")),
            fix=f"Write {base}#train or {base}#test.",
            code=USAGE,
        )
    if base.endswith("]") and not _exists(base):
        raise FdlabError(
            f"The slice in '{text}' is not understood.",
            fix="Write [:N] or [A:B], last of all: digits#test[:100].",
            code=USAGE,
        )
    if any(len(end or "") > 18 for end in (found["a"], found["b"])):
        raise FdlabError(
            "The slice of the data has a number that no data has.", fix="Write [:N] or [A:B], last of all.", code=USAGE
        )
    start, stop = (int(end) if end else None for end in (found["a"], found["b"]))
    scale = None if found["low"] is None else checked_range(found["low"], found["high"])
    return Spec(base, split, start, stop, scale, found["labels"])


def checked_range(low: str | float, high: str | float) -> Range:
    """(LOW, HIGH) as numbers. Raises FdlabError (2) where they are none, or LOW is not below HIGH."""
    try:
        ends = float(low), float(high)
    except (ValueError, OverflowError):
        ends = math.nan, math.nan
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] < ends[1]):
        raise FdlabError(
            f"'{str(low)[:40]}' to '{str(high)[:40]}' is no range of values.",
            "The first value becomes black, the second white.",
            "Give --value-range LOW HIGH (or DATA?range=LOW:HIGH) with LOW below HIGH, e.g. --value-range 0 4095.",
            code=USAGE,
        )
    return ends


def ranged(spec: str, value_range: tuple[float, float] | None) -> str:
    """``spec`` with this range of values, as ``--value-range`` gives it.

    >>> ranged("xrays#test", (0, 4095))
    'xrays?range=0:4095#test'
    """
    if value_range is None:
        return spec
    return str(replace(parse_spec(spec), value_range=checked_range(*value_range)))


def with_labels(spec: str, table: str) -> str:
    """``spec`` with this table of labels, as ``--labels`` gives it.

    >>> with_labels("mine#test", "labels.csv")
    'mine?labels=labels.csv#test'

    Raises:
        FdlabError (2): the name of the table has a character that ends it here.
    """
    if set(table) & set("?#[]"):
        raise FdlabError(
            f"The name '{table}' of the labels cannot be given.", "It holds one of ? # [ ].", "Rename it.", USAGE
        )
    return str(replace(parse_spec(spec), labels=table))


def with_split(spec: str, split: str) -> str:
    """``spec`` with ``#train`` or ``#test``, unless it names a part itself.

    >>> with_split("digits[:100]", "train")
    'digits#train[:100]'
    """
    parsed = parse_spec(spec)
    return spec if parsed.split else str(replace(parsed, split=split))


def open_data(spec: str, *, size: int | None = None, seed: int = 0) -> ImageSource:
    """Open images by name.

    Args:
        spec: see the top of this file. Without ``#train`` or ``#test`` all images are taken (``locality``:
            its training samples). ``[A:B]`` cuts in stored order, in class folders the order of classes.
        size: pixels; only ``digits`` use it, which are enlarged straight to it (24).
        seed: only ``locality`` uses it: its samples are a function of (seed, index).

    Raises:
        FdlabError: 2 for a malformed or unavailable specification or an empty selection, 3 for data that is
            missing or not understood.
    """
    parsed = parse_spec(spec)
    images = _open_labelled(parsed) if parsed.labels else _open_base(parsed.base, size, seed)
    images.with_range(parsed.value_range)
    indices: Indices = range(len(images))
    notes: tuple[str, ...] = ()
    if parsed.split:
        indices, notes = images.splits()[parsed.split], (f"{parsed.split}: {images.split_note()}",)
    if (parsed.start, parsed.stop) != (None, None):
        indices = indices[parsed.start : parsed.stop]
    if not len(indices):
        raise FdlabError(
            f"{spec} selects no image.", why=f"{parsed.base} has {len(images)}.", fix="Widen the slice.", code=USAGE
        )
    return ImageSource(images, str(spec), indices, notes)


def _open_labelled(spec: Spec) -> Images:
    from fdlab.data.labels import LabelledFiles

    folder, table = Path(spec.base).expanduser(), Path(str(spec.labels)).expanduser()
    if not folder.is_dir():
        raise FdlabError(
            f"Labels in a table belong to a folder of images, and {spec.base} is none.",
            fix="Give --data FOLDER, or leave --labels out.",
            code=USAGE,
        )
    try:
        return LabelledFiles(folder, table)
    except OSError as error:
        raise FdlabError(f"{folder} cannot be read.", str(error), "Check its permissions.", NOT_UNDERSTOOD) from error


def _open_base(base: str, size: int | None, seed: int) -> Images:
    if base in ("digits", "photos") and Path(base).is_dir():
        warnings.warn(
            f"{base} is fdlab's own set of this name, not your folder: write ./{base} for the folder.", stacklevel=2
        )
    if base == "digits":
        from fdlab.data.builtin import Digits

        return Digits(size)
    if base == "photos":
        from fdlab.data.builtin import Photos

        return Photos()
    if base.partition(":")[0] == "locality":
        from fdlab.data.locality import Locality

        return Locality(_alpha(base), seed)
    kind, _, name = base.partition(":")
    if kind == "hfds":
        from fdlab.data.named import HubSet

        return HubSet(name)
    if kind == "torchvision":
        from fdlab.data.named import TorchvisionSet

        return TorchvisionSet(name)
    try:
        if base.endswith((".tar", ".tar.gz", ".tgz")):
            return _open_tars(base)
        return _open_path(Path(base).expanduser())
    except (OSError, RuntimeError, ValueError) as error:  # no home of that ~name; a NUL in a name
        raise FdlabError(
            f"{base} cannot be read.", why=str(error), fix="Check the path and its permissions.", code=NOT_UNDERSTOOD
        ) from error


def _open_tars(pattern: str) -> Images:
    from fdlab.data.tars import Tars, shards

    paths = shards(pattern)
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise FdlabError(
            f"There is no tar file at '{missing[0] if missing else pattern}'.",
            why=f"{len(missing)} of {len(paths)} shards are missing." if len(paths) > 1 else "",
            fix="Give FILE.tar, a pattern like 'train-*.tar' or 'train-{000..009}.tar'.",
            code=NOT_UNDERSTOOD,
        )
    return Tars(paths)


def _alpha(base: str) -> float:
    try:
        alpha = float(base.partition(":")[2])
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise FdlabError(
            f"'{base}' is not understood.",
            why="ALPHA is the share of far twins, a number from 0 to 1.",
            fix="Write for example locality:0.5.",
            code=USAGE,
        )
    return alpha


def _open_path(path: Path) -> Images:
    if not path.exists():
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(str(path), [*BUILTIN, *beside])
        raise FdlabError(
            f"There is no data at '{path}'.",
            why=f"It is neither a built-in name nor a path.{hint}",
            fix="Give digits, photos, locality:ALPHA, an image folder, a parquet or tar file, hfds:NAME, "
            "torchvision:NAME.",
            code=NOT_UNDERSTOOD,
        )
    if path.is_dir():
        from fdlab.data.folders import Folder

        return Folder(path)
    if path.suffix.lower() == ".parquet":
        from fdlab.data.parquet import Parquet

        return Parquet(path)
    why = _what_it_may_be(path)
    raise FdlabError(
        f"{path} is not data that can be read.", why=why, fix="Give a folder or a parquet file.", code=NOT_UNDERSTOOD
    )


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # too long for a path, or a ~name without a home
        return False


def _what_it_may_be(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return f"It is one image; its folder is {path.parent}."
    if suffix in (".pt", ".pth", ".safetensors", ".bin", ".ckpt"):
        return "It looks like a checkpoint: name it as the model, not as the data."
    if suffix in (".zip", ".gz", ".7z"):
        return "It is an archive: unpack it first."
    return f"Files with the ending '{suffix}' are not known."
