"""Zip entries read within bounds: stored or deflated ones, as long as they declare, with the checksum they declare.

The bytes are read, never mapped: a file that another process cuts meanwhile is an error, not the end of the process.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import IO, Any

import torch
from torch import Tensor

from fdlab.checkpoints.limits import MAX_DIRECTORY, MAX_ENTRIES, checked_unpacked
from fdlab.checkpoints.storages import PickleError

CHUNK = 1 << 20
CUT = "it is cut short: {} reaches beyond its end"


class Bounded(io.RawIOBase):
    """A binary file that gives no more than there is: a reader may ask for lengths that a damaged file names.

    Args:
        most: bytes that one call may ask for at most, where they are there.
    """

    def __init__(self, file: IO[bytes], most: int) -> None:
        self.file, self.most = file, most
        self.length = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.tell, self.seek = file.tell, file.seek  # type: ignore[method-assign,assignment]

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        left = self.length - self.file.tell()
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self.most:
            raise PickleError(f"a part of it is longer than {self.most >> 20} MiB")
        return self.file.read(max(wanted, 0))

    def readline(self, size: int | None = -1) -> bytes:
        return self.file.readline(min(self.most, CHUNK))


class Zip:
    """The entries of a zip by name.

    Raises:
        PickleError, zipfile.BadZipFile: damaged, beyond the limits, or packed by another method.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        with zipfile.ZipFile(Bounded(file, MAX_DIRECTORY)) as archive:
            listed = archive.infolist()
        self.entries = {entry.filename: entry for entry in listed}
        if len(listed) > MAX_ENTRIES or len(self.entries) < len(listed):
            raise PickleError(f"it lists {len(listed):,} entries, too many or some twice")
        checked_unpacked(sum(entry.file_size for entry in listed), self.size)
        if sum(entry.file_size for entry in listed if entry.compress_type == zipfile.ZIP_STORED) > self.size:
            raise PickleError("its entries overlap")

    def read(self, name: str) -> bytes:
        """The bytes of an entry."""
        return bytes(self.flat(name).numpy())

    def flat(self, name: str) -> Tensor:
        """The bytes of an entry as uint8."""
        entry = self.entries[name]
        out = torch.empty(entry.file_size, dtype=torch.uint8)
        view = out.numpy().data
        self.file.seek(self._begin(entry))
        if entry.compress_type == zipfile.ZIP_STORED:
            found = read_into(self.file, view, _said(entry), summed=bool(entry.CRC))
        elif entry.compress_type == zipfile.ZIP_DEFLATED:
            found = self._inflate(entry, view)
        else:
            raise PickleError(f"{_said(entry)} is neither stored nor deflated")
        # torch can leave the sum of stored entries out (0)
        if found != entry.CRC and (entry.CRC or entry.compress_type != zipfile.ZIP_STORED):
            raise PickleError(f"it is damaged: {_said(entry)} does not have its checksum")
        return out

    def _begin(self, entry: zipfile.ZipInfo) -> int:
        """Where an entry's bytes begin: its local header may be longer than the directory says."""
        self.file.seek(entry.header_offset)
        header = self.file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise PickleError(f"it is damaged: {_said(entry)} is not where the zip directory says")
        name, extra = struct.unpack("<HH", header[26:30])
        begin = entry.header_offset + 30 + name + extra
        if begin + entry.compress_size > self.size:
            raise PickleError(CUT.format(_said(entry)))
        return begin

    def _inflate(self, entry: zipfile.ZipInfo, view: memoryview) -> int:
        """Unpacks into ``view``, and never more than it holds; the checksum of what was unpacked."""
        unpack, left, place, crc = zlib.decompressobj(-zlib.MAX_WBITS), entry.compress_size, 0, 0
        packed = b""
        while place < len(view) and not unpack.eof:
            if not packed:
                packed = self.file.read(min(CHUNK, left))
                left -= len(packed)
            piece = unpack.decompress(packed, min(CHUNK, len(view) - place))
            if not piece and not packed:
                break
            packed = unpack.unconsumed_tail
            view[place : place + len(piece)] = piece
            crc = zlib.crc32(piece, crc)
            place += len(piece)
        rest = b"" if unpack.eof else unpack.decompress(packed + self.file.read(min(left, 64)), 1)
        if place != len(view) or rest:
            raise PickleError(f"it is damaged: {_said(entry)} does not unpack to the {len(view):,} bytes it declares")
        return crc


def read_into(file: Any, view: memoryview, what: str, *, summed: bool = False) -> int:
    """Fills ``view`` with a file's next bytes; returns their CRC-32 where it is asked for (``summed``), else 0.

    Raises:
        PickleError: they end before, as where another process cuts the file.
    """
    place, crc, step = 0, 0, CHUNK if summed else len(view)
    while place < len(view):
        part = view[place : place + step]
        count = file.readinto(part)
        if not count:
            raise PickleError(CUT.format(what))
        crc = zlib.crc32(part[:count], crc) if summed else 0
        place += count
    return crc


def _said(entry: zipfile.ZipInfo) -> str:
    return entry.filename[:80]
