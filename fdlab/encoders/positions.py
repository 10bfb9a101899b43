"""Position tables: the fixed sin-cos table, and absolute and relative tables at another grid.

Families resize tables differently, and the difference is visible in the tokens: ``METHODS`` and
``RELATIVE_METHODS`` name the ways. Swin V2 recomputes its bias and needs none.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

Grid = tuple[int, int]
Method = Literal["offset", "size", "antialias", "corners", "bilinear"]
RelativeMethod = Literal["geometric", "bicubic"]
METHODS: dict[str, str] = {
    "offset": "bicubic, scale factor (new + 0.1) / old per axis, no antialias",
    "size": "bicubic to size, no antialias",
    "antialias": "bicubic to size, with antialias",
    "corners": "bicubic to size, corners aligned, no antialias",
    "bilinear": "bilinear to size, with antialias",
}
RELATIVE_METHODS: dict[str, str] = {
    "geometric": "cubic spline over geometrically spaced offsets",
    "bicubic": "bicubic over the offsets",
}


def sincos_table(grid: Grid, width: int) -> Tensor:
    """The fixed 2-D sin-cos table of full amplitude, (rows * columns, width), row major.

    The first half of the channels encodes the column, the second half the row; each half is
    ``sin(p w_i), cos(p w_i)`` with ``w_i = 10000^(-i / (width / 4))`` (the order of MAE's code).
    """
    if width % 4:
        raise FdlabError(f"A sin-cos table needs a width divisible by 4, not {width}.", code=USAGE)
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = [axis.reshape(-1, 1) * frequency for axis in (column, row)]
    return torch.cat([part for angle in halves for part in (angle.sin(), angle.cos())], dim=1).float()


def square_grid(rows: int, *, what: str) -> Grid:
    """The side of a square table, or an error: the grid of an oblong table is not in a file."""
    side = round(rows**0.5)
    if side * side != rows:
        why = f"{rows} position rows are not a square grid, and the file does not hold their shape."
        raise FdlabError(
            f"{what}: the image size is unknown.", why, "Give image_size=(height, width).", code=NOT_UNDERSTOOD
        )
    return side, side


def resize_absolute(table: Tensor, old: Grid, new: Grid, *, prefix: int, method: Method) -> Tensor:
    """An absolute table (1, prefix + rows, C) at the grid ``new``; the prefix rows stay as they are."""
    if old == new:
        return table
    head, body = table[:, :prefix], table[:, prefix:]
    maps = body.reshape(1, *old, -1).permute(0, 3, 1, 2)
    if method == "offset":
        # Given a scale factor, interpolate samples with it, so the 0.1 shifts every value.
        scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
        maps = functional.interpolate(maps, scale_factor=scale, mode="bicubic", align_corners=False)
    else:
        smooth, corners = method in ("antialias", "bilinear"), method == "corners"
        mode = "bilinear" if method == "bilinear" else "bicubic"
        maps = functional.interpolate(maps, size=new, mode=mode, align_corners=corners, antialias=smooth)
    assert tuple(maps.shape[-2:]) == tuple(new)
    return torch.cat([head, maps.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def resize_relative(table: Tensor, old: Grid, new: Grid, method: RelativeMethod = "bicubic") -> Tensor:
    """A relative table ((2h-1)(2w-1) + extra, heads) at the grid ``new``; the extra rows stay as they are."""
    if old == new:
        return table
    sides, wanted = [2 * n - 1 for n in old], [2 * n - 1 for n in new]
    offsets = sides[0] * sides[1]
    maps = table[:offsets].T.reshape(1, -1, *sides)
    if method == "geometric":
        maps = _geometric(maps[0], wanted)[None]
    else:
        maps = functional.interpolate(maps, size=wanted, mode="bicubic", align_corners=False)
    return torch.cat([maps.flatten(2)[0].T, table[offsets:]], dim=0)


def _geometric(maps: Tensor, wanted: list[int]) -> Tensor:
    """Maps (heads, h, w) over offsets, at ``wanted`` offsets: the way of BEiT's fine-tuning code.

    The old offsets are spread over the new range in a geometric progression, fine near offset zero; an
    interpolating cubic spline is read at every new offset.
    """
    from scipy.interpolate import RectBivariateSpline

    known = [_spread(side, target) for side, target in zip(maps.shape[1:], wanted, strict=True)]
    asked = [np.arange(side) - side // 2 for side in wanted]
    orders = [min(3, side - 1) for side in maps.shape[1:]]
    if min(orders) < 1:  # one patch along an axis: one offset, which holds everywhere
        return functional.interpolate(maps[None], size=wanted, mode="nearest")[0]
    planes = [
        RectBivariateSpline(*known, plane, kx=orders[0], ky=orders[1], s=0)(*asked) for plane in maps.double().numpy()
    ]
    return torch.from_numpy(np.stack(planes)).to(maps.dtype)


def _spread(side: int, target: int) -> np.ndarray:
    """``side`` offsets at 0, +-1, +-(1 + q), +-(1 + q + q^2), ...; q in [1.01, 1.5] so that they reach ``target``."""
    half, goal = side // 2, target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**half) / (1 - ratio) > goal else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(half))
    return np.concatenate([-steps[::-1], [0.0], steps])
