"""Bytes of an image file -> RGB pixels, whatever the file's mode. The only place that decodes.

JPEGs go through torchcodec where it is installed (extra ``decode``), everything else through Pillow. Both use
libjpeg-turbo and give the same pixels, so a result does not depend on which of them was there.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fdlab.data.depth import Range, full_range, grey_of, used

# What Pillow reads by its own code, by the endings that it registers. Left out: formats that it hands to another
# program (EPS to Ghostscript, WMF), stubs that hold no pixels (HDF5, GRIB, BUFR) and MPEG.
FORMATS = {
    "AVIF": ".avif .avifs",
    "BLP": ".blp",
    "BMP": ".bmp",
    "CUR": ".cur",
    "DCX": ".dcx",
    "DDS": ".dds",
    "DIB": ".dib",
    "FITS": ".fit .fits",
    "FLI": ".fli .flc",
    "FTEX": ".ftc .ftu",
    "GBR": ".gbr",
    "GIF": ".gif",
    "ICNS": ".icns",
    "ICO": ".ico",
    "IM": ".im",
    "JPEG": ".jpg .jpeg .jpe .jfif .mpo",
    "JPEG2000": ".jp2 .j2k .jpc .jpf .jpx .j2c",
    "MSP": ".msp",
    "PCD": ".pcd",
    "PCX": ".pcx",
    "PIXAR": ".pxr",
    "PNG": ".png .apng",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "PSD": ".psd",
    "QOI": ".qoi",
    "SGI": ".sgi .rgb .rgba .bw",
    "SUN": ".ras",
    "TGA": ".tga .icb .vda .vst",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
    "XBM": ".xbm",
    "XPM": ".xpm",
}
SUFFIXES = frozenset(ending for endings in FORMATS.values() for ending in endings.split())
TAGS = 1 << 16  # bytes in which a JPEG's tags stand

# The one budget of decoding: a small file must not take more than this beside three times its own size. Pillow's
# pixels and ours take 7 bytes a pixel; decoders that hold the whole image in a form of their own take more.
BUDGET = 300_000_000
BYTES_PER_PIXEL = {"AVIF": 16, "GIF": 12, "JPEG2000": 20, "WEBP": 16}
LARGEST_FILE = 1 << 30


class Unreadable(Exception):
    """An image that cannot be decoded; callers count it and go on."""


def file_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most 1 GiB: never those of a pipe or a device, which have no end.

    Raises:
        Unreadable: it is something else, or larger. OSError: it cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a file but a pipe or a device")
        if status.st_size > LARGEST_FILE:
            raise Unreadable(f"{status.st_size:,} bytes are more than an image file has")
        return file.read(LARGEST_FILE + 1)


def decode(data: bytes, value_range: Range | None = None) -> Tensor:
    """The image as uint8 (3, h, w), in the file's own order in memory (rows of RGB pixels).

    Grey and palette images become RGB; transparency is laid over white; CMYK is converted without a
    colour profile. Values of more than 8 bits are scaled from the full range of the file's bit depth (``data.depth``),
    or from ``value_range``, to 0 to 255. The first frame of several is taken. The orientation
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
        with opened(data) as image:
            _affordable(image, len(data))
            image.load()
            pixels = _to_rgb(image, value_range)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # Pillow's plugins raise nearly everything on damaged bytes
        raise Unreadable(f"{type(error).__name__}: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)  # resizing is fastest in this order


def opened(data: bytes) -> Image.Image:
    """The image behind its header, by one of ``FORMATS``, whatever the file's name says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ``_affordable`` is stricter
        return Image.open(io.BytesIO(data), formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those of ``FORMATS`` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def span_of(data: bytes, value_range: Range | None) -> tuple[float, float, float] | None:
    """(lowest, highest, share of its range) of an image of more than 8 bits, else None. Raises Unreadable."""
    try:
        with opened(data) as image:
            if full_range(image) is None:
                return None
            _affordable(image, len(data))
            image.load()
            return used(image, value_range)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _affordable(image: Image.Image, size: int) -> None:
    """Raises Unreadable where the header promises more pixels than the file may cost."""
    pixels = image.width * image.height
    if pixels * BYTES_PER_PIXEL.get(image.format or "", 7) > BUDGET + 3 * size:
        raise Unreadable(
            f"{pixels / 1e6:.0f} million pixels from {size / 1e6:.1f} MB: more than is decoded; make it smaller first"
        )


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
        with opened(data) as image:
            return image.height, image.width
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image, value_range: Range | None) -> np.ndarray:
    """(h, w, 3) uint8, in strips: conversions of a whole image would need several copies of it."""
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if not clear and image.mode[:1] in ("I", "F"):
        return np.repeat(grey_of(image, value_range)[..., None], 3, axis=2)
    width, height = image.size
    rows = max(1, (1 << 22) // max(width, 1))
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        strip.info = image.info
        pixels[top:bottom] = np.asarray(_on_white(strip) if clear else strip.convert("RGB"))
    return pixels


def _on_white(image: Image.Image) -> Image.Image:
    solid = image.convert("RGBA")
    paper = Image.new("RGBA", solid.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, solid).convert("RGB")
