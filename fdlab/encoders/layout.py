"""Where a model's tokens lie, block by block: what turns an attention map into distances.

Plain models have one grid. Swin models attend inside windows, on a grid that each stage halves: a window's
tokens lie side by side in pixels of that stage. Shifted windows join opposite edges of the image; the model's
mask keeps the parts apart, so inside one part the window's own coordinates are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from fdlab.encoders.anatomy import Layout as Layout
from fdlab.encoders.anatomy import anatomy_of
from fdlab.encoders.encoder import EncoderInfo, blocks_of
from fdlab.errors import NOT_UNDERSTOOD, FdlabError


def layouts(module: nn.Module, info: EncoderInfo, size: Sequence[int]) -> list[Layout]:
    """The layout of every block for images of ``size`` (height, width), in the order of computation.

    Raises:
        FdlabError: windows that do not fill their grid (padding), or windows of a kind that is not known.
    """
    known = anatomy_of(module).layouts
    if known is not None:
        return list(known)
    blocks = blocks_of(module)
    patch = info.patch_size
    grid = (int(size[0]) // patch, int(size[1]) // patch)
    if not info.windows:
        return [Layout(grid, (patch, patch))] * len(blocks)
    return [_window(block, place, size) for place, block in enumerate(blocks)]


def _window(block: Any, place: int, size: Sequence[int]) -> Layout:
    resolution, window = getattr(block, "input_resolution", None), getattr(block, "window_size", None)
    if resolution is None or window is None:
        raise FdlabError(
            f"The windows of {type(block).__name__} are not known.",
            "Distances need the grid that a block attends on.",
            "Measure a plain vision transformer, a Swin or a SwinV2.",
            code=NOT_UNDERSTOOD,
        )
    if any(r % w for r, w in zip(resolution, window, strict=True)) or any(
        s % r for s, r in zip(size, resolution, strict=True)
    ):
        raise FdlabError(
            f"Block {place + 1} pads its windows: {tuple(resolution)} tokens in windows of {tuple(window)}.",
            "Patches attend to padding there, and statistics of padding say nothing of the model.",
            "Open the model with image_size= of which every stage fills whole windows.",
            code=NOT_UNDERSTOOD,
        )
    pixels = (int(size[0]) // int(resolution[0]), int(size[1]) // int(resolution[1]))
    count = (resolution[0] // window[0]) * (resolution[1] // window[1])
    return Layout((int(window[0]), int(window[1])), pixels, int(count))
