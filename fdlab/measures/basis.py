"""A growing set of orthonormal vectors, kept in chunks so that growing never copies what is there."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fdlab.errors import OUT_OF_SPACE, FdlabError

CHUNK = 8
_COLUMNS = 1 << 20  # of a rotation at once
_SHARE = 0.5  # of the free memory that a basis may take


class Basis:
    """Rows q_1, q_2, ... of length ``size``; two passes of classical Gram-Schmidt keep them orthogonal.

    Args:
        size: P, the length of a row.
        device: where the rows lie; the host's memory serves where a card's is too small.
    """

    def __init__(self, size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        self.chunks: list[Tensor] = []
        self.rows = 0

    def append(self, vector: Tensor) -> None:
        """One more row; the vector is taken as it is."""
        place, inside = divmod(self.rows, CHUNK)
        if place == len(self.chunks):
            self.chunks.append(torch.empty(CHUNK, self.size, device=self.device, dtype=self.dtype))
        self.chunks[place][inside] = vector
        self.rows += 1

    def row(self, index: int) -> Tensor:
        return self.chunks[index // CHUNK][index % CHUNK]

    def truncate(self, rows: int) -> None:
        """Forgets all rows from this one on."""
        self.rows = rows
        del self.chunks[-(-rows // CHUNK) :]

    def coefficients(self, vector: Tensor) -> Tensor:
        """(rows,) float64: the products of all rows with ``vector``."""
        parts = [chunk @ vector for chunk in self._filled()]
        return torch.cat(parts).double().cpu() if parts else torch.zeros(0, dtype=torch.float64)

    def orthogonalise(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What of ``vector`` is orthogonal to all rows, and the (rows,) coefficients of the rest."""
        vector = vector.to(self.device, self.dtype, copy=True)
        total = torch.zeros(self.rows, dtype=torch.float64)
        for _ in range(2):  # once is not enough in floating point, twice is (Giraud et al. 2005)
            coefficients = self.coefficients(vector)
            for chunk, part in zip(self._filled(), coefficients.split(CHUNK), strict=False):
                vector -= chunk.T @ part.to(self.device, self.dtype)
            total += coefficients
        return vector, total

    def combine(self, weights: Tensor) -> Tensor:
        """(size,): the sum of rows with these (rows,) weights."""
        result = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        for chunk, part in zip(self._filled(), weights.split(CHUNK), strict=False):
            result += chunk.T @ part.to(self.device, self.dtype)
        return result

    def rotate(self, matrix: Tensor) -> None:
        """The rows become ``matrix.T @ rows``, with (rows, kept) ``matrix``, kept <= rows; in place, by columns."""
        old, kept = self._filled(), matrix.shape[1]
        turn = matrix.T.to(self.device, self.dtype)
        for start in range(0, self.size, _COLUMNS):
            part = slice(start, start + _COLUMNS)
            turned = turn @ torch.cat([chunk[:, part] for chunk in old])
            for index in range(kept):
                self.row(index)[part] = turned[index]
        self.truncate(kept)

    def _filled(self) -> list[Tensor]:
        return [chunk[: self.rows - index * CHUNK] for index, chunk in enumerate(self.chunks)]


def free_memory(device: torch.device) -> int:
    """Bytes free on the device, or in the host's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = {line.split(":")[0]: line.split()[1] for line in lines}
        return int(sizes["MemAvailable"]) * 1024
    except (OSError, KeyError, ValueError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2)


def plan_rows(
    size: int, wanted: int, least: int, *, device: torch.device, dtype: torch.dtype, budget: int | None = None
) -> tuple[torch.device, int, str]:
    """Where a basis of ``wanted`` rows goes, how many rows fit, and a sentence where that is not simply "here".

    The memory is computed before anything is allocated. On a card that is too small the basis lies in the
    host's memory; where that is too small as well, fewer rows are kept and Lanczos restarts.

    Args:
        least: rows without which a restart cannot converge.
        budget: bytes that may be used; by default half of what is free.

    Raises:
        FdlabError: code 4, not even ``least`` rows fit; with the numbers.
    """
    each = size * torch.empty(0, dtype=dtype).element_size()
    places = [device] if device.type == "cpu" else [device, torch.device("cpu")]
    rooms = [int(_SHARE * free_memory(place)) if budget is None else budget for place in places]
    need = f"{wanted} vectors of {size:,} numbers take {wanted * each / 1e9:.2f} GB"
    for place, room in zip(places, rooms, strict=True):
        if wanted * each <= room:
            return place, wanted, "" if place == device else f"{need}: kept in the host's memory."
    rows = max(room // each for room in rooms)
    if rows < least:
        raise FdlabError(
            f"The basis of {size:,} parameters does not fit: {need}.",
            f"{max(rooms) / 1e9:.2f} GB may be used, and even a restarted run needs {least} vectors.",
            "Look at blocks alone (--part blocks), use a smaller k or a machine with more memory.",
            OUT_OF_SPACE,
        )
    place = places[rooms.index(max(rooms))]
    return place, rows, f"{need}, {max(rooms) / 1e9:.2f} GB may be used: at most {rows} are kept."
