"""A parquet file with an image column as Hugging Face writes it. Needs pyarrow (extra ``data``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fdlab.data.decode import BUDGET, Unreadable, decode
from fdlab.data.folders import peek, spread
from fdlab.data.images import Images
from fdlab.errors import NOT_UNDERSTOOD, FdlabError

IMAGE_NAMES, LABEL_NAMES = ("image", "img", "images"), ("label", "labels", "fine_label")
EDGE = 64 * 1024


class Parquet(Images):
    """Rows of one file; the encoded bytes are held in memory, decoded when asked for.

    The image column is struct{bytes, path} or plain bytes; the label column, if any, is an integer one called
    ``label``, ``labels`` or ``fine_label``. ``digest`` is the sha256 of the file's name, its size and its
    first and last 64 KiB (the last hold the table of row groups), not of every byte.

    Raises:
        FdlabError (3): no parquet file, no image column, no row; (1): pyarrow is absent.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.name = path, path.stem
        parquet = _pyarrow_parquet()
        try:
            file = parquet.ParquetFile(path)
            schema = file.schema_arrow
            image, label = _image_column(schema, path), _label_column(schema)
            if schema.names.count(image) > 1 or schema.names.count(label) > 1:
                raise ValueError("A column is there twice.")
            table = _bounded(file, [image] + ([label] if label else []), path.stat().st_size)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's own errors derive from these
            raise FdlabError(
                f"{path} cannot be read as parquet.",
                why=str(error).partition("\n")[0],
                fix="Check that the download is complete.",
                code=NOT_UNDERSTOOD,
            ) from error
        if not table.num_rows:
            raise FdlabError(f"{path} has no rows.", fix="Give a file with images.", code=NOT_UNDERSTOOD)
        self._bytes = _plain_bytes(table[image])
        self._labels = np.full(table.num_rows, -1, dtype=np.int64)
        if label:
            self._labels = _labels(table[label])
            self.classes = _class_names(schema, label)
        self.native_size = peek(self.samples(), path)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            first = file.read(EDGE)
            file.seek(max(0, size - EDGE))
            last = file.read()
        return hashlib.sha256(f"{self.path.name}\t{size}\n".encode() + first + last).hexdigest()

    def read(self, index: int) -> Tensor:
        return decode(self._row(index), self.value_range)

    def samples(self) -> list[Callable[[], bytes]]:
        return [lambda i=i: self._row(i) for i in spread(list(range(len(self))))]  # type: ignore[misc]

    def _row(self, index: int) -> bytes:
        data = self._bytes[index].as_py()
        if data is None:
            raise Unreadable(f"row {index} holds no bytes (only a path?)")
        return data


def _bounded(file: Any, columns: list[str], size: int) -> Any:
    """The columns as a table, read piece by piece: a small file may unpack to any size.

    Raises:
        ValueError: they take more than three times the file and ``BUDGET``.
    """
    import pyarrow as pa

    most, meta = BUDGET + 3 * size, file.metadata
    groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
    declared = [_declared(group, columns) for group in groups]
    pieces, taken = [], sum(declared) if sum(declared) > most else 0
    # A value is no larger than its group, even where a dictionary repeats it: a piece stays within the bound.
    rows = min(256, max(1, most // (4 * max([1, *declared]))))
    # one thread: a pool of threads would not survive the fork of loader workers
    for piece in file.iter_batches(batch_size=rows, columns=columns, use_threads=False) if taken <= most else ():
        pieces.append(piece)
        taken += piece.nbytes
        if taken > most:
            break
    if taken > most:
        raise ValueError(f"Its images unpack to more than {most / 1e6:.0f} MB from {size / 1e6:.1f} MB.")
    return pa.Table.from_batches(pieces, schema=pieces[0].schema if pieces else file.schema_arrow)


def _declared(group: Any, columns: list[str]) -> int:
    """Bytes of these columns of a row group before compression, as the file says."""
    parts = [group.column(number) for number in range(group.num_columns)]
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise FdlabError(
            "Reading parquet files needs pyarrow.", why="It is not installed.", fix='pip install "fdlab[data]"'
        ) from error
    return pyarrow.parquet


def _image_column(schema: Any, path: Path) -> str:
    import pyarrow as pa

    def holds_images(field: Any) -> bool:
        kind = field.type
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    found = [field.name for field in schema if holds_images(field)]
    if not found:
        raise FdlabError(
            f"{path} has no image column.",
            why=f"Its columns: {', '.join(schema.names) or 'none'}.",
            fix="An image column is struct{bytes, path} or plain bytes of encoded images.",
            code=NOT_UNDERSTOOD,
        )
    return min(found, key=lambda name: IMAGE_NAMES.index(name) if name in IMAGE_NAMES else len(IMAGE_NAMES))


def _label_column(schema: Any) -> str | None:
    import pyarrow as pa

    known = (name for name in LABEL_NAMES if name in schema.names)
    return next((name for name in known if pa.types.is_integer(schema.field(name).type)), None)


def _plain_bytes(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _labels(column: Any) -> np.ndarray:
    """(n,) int64, -1 where a row has none or a number that no int64 holds: any integer type, also unsigned."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_uint64(column.type):
        column = pc.if_else(pc.less_equal(column, pa.scalar(2**63 - 1, pa.uint64())), column, None)
    return column.cast(pa.int64()).fill_null(-1).to_numpy()


def _class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names of the classes from the ``huggingface`` key of the file's metadata, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
