"""Bytes of an image file -> RGB pixels, whatever the file's mode. The only place that decodes."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})


class Unreadable(Exception):
    """An image that cannot be decoded; callers count it and go on."""


def decode(data: bytes) -> Tensor:
    """The image as uint8 (3, h, w).

    Grey and palette images become RGB; transparency is laid over white; CMYK is converted without a
    colour profile; 16-bit values are divided by 257; float images are read as 0 to 1. The orientation
    tag of cameras is not applied, as in the usual training pipelines.

    Raises:
        Unreadable: truncated, not an image, or too large to be one.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            pixels = np.array(_to_rgb(image), dtype=np.uint8)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged bytes
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


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
