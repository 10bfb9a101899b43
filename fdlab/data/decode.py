"""Bytes of an image file -> RGB pixels, whatever the file's mode. The only place that decodes.

JPEGs go through torchcodec where it is installed (extra ``decode``), everything else through Pillow. Both use
libjpeg-turbo and give the same pixels, so a result does not depend on which of them was there.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})
TAGS = 1 << 16  # bytes in which a JPEG's tags stand


class Unreadable(Exception):
    """An image that cannot be decoded; callers count it and go on."""


def decode(data: bytes) -> Tensor:
    """The image as uint8 (3, h, w), in the file's own order in memory (rows of RGB pixels).

    Grey and palette images become RGB; transparency is laid over white; CMYK is converted without a
    colour profile; 16-bit values are divided by 257; float images are read as 0 to 1. The orientation
    tag of cameras is not applied, as in the usual training pipelines.

    Raises:
        Unreadable: truncated, not an image, or too large to be one.
    """
    fast = _jpeg_decoder()
    # torchcodec turns images by their orientation tag: those with tags are left to Pillow.
    if fast is not None and data[:2] == b"\xff\xd8" and b"Exif" not in data[:TAGS]:
        try:
            return fast(data)
        except (RuntimeError, ValueError):
            pass  # Pillow says what is wrong, or knows better
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            pixels = np.array(_to_rgb(image), dtype=np.uint8)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged bytes
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)  # resizing is fastest in this order


@lru_cache(maxsize=1)
def _jpeg_decoder() -> Callable[[bytes], Tensor] | None:
    """torchcodec's decoder; None where it is not installed or its libraries do not load."""
    if find_spec("torchcodec") is None:
        return None
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):
        return None
    return decode_jpeg


def header_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header alone, without decoding. Raises Unreadable."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit PNG and TIFF; Pillow's own conversion would clip at 255
        grey = np.asarray(image).astype(np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64)) * 255.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        solid = image.convert("RGBA")
        paper = Image.new("RGBA", solid.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, solid).convert("RGB")
    return image.convert("RGB")
