"""Grey images of more than 8 bits: which values are black and white, and how much of that range an image uses.

The rule: the full range of the file's bit depth. 16 bits without a sign: 0 to 65535; with one: -32768 to 32767; a TIFF
that says 12 bits: 0 to 4095; 32 bits: all that 32 bits hold; floats: 0 to 1. Data that fill a small part of it (12-bit
values in a 16-bit file, Hounsfield units) are nearly one grey for a model: ``value_range`` states another range.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

Range = tuple[float, float]
LITTLE = 0.1  # below this share of the range an image is nearly one grey
_BITS, _FORMAT, _SIGNED, _FLOAT = 258, 339, 2, 3  # TIFF's tags, and values of SampleFormat


def full_range(image: Image.Image) -> Range | None:
    """(black, white) of the file's bit depth; None for images of 8 bits."""
    if image.mode == "F":
        return 0.0, 1.0
    if not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return (-(2.0**31), 2.0**31 - 1) if image.format == "FITS" else (0.0, 65535.0)
    bits = int(_first(tags.get(_BITS, 16)))
    if int(_first(tags.get(_FORMAT, 1))) == _SIGNED:
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1


def grey_of(image: Image.Image, value_range: Range | None) -> np.ndarray:
    """(h, w) uint8: ``value_range``, or the full range, is 0 to 255; what lies beyond is cut, NaN is black."""
    low, high = value_range or full_range(image) or (0.0, 255.0)
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for top, values in _strips(image):
        scaled = (values - low) * (255.0 / (high - low))
        grey[top : top + len(values)] = np.clip(np.rint(np.nan_to_num(scaled)), 0, 255)
    return grey


def used(image: Image.Image, value_range: Range | None) -> tuple[float, float, float] | None:
    """(lowest, highest, share of the range that they span) of a deep image; None for images of 8 bits."""
    scale = full_range(image)
    if scale is None:
        return None
    low, high = value_range or scale
    finite = [values[np.isfinite(values)] for _, values in _strips(image)]
    ends = [(values.min(), values.max()) for values in finite if values.size]
    if not ends:
        return None
    least, most = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    inside = min(most, high) - max(least, low)
    return least, most, max(0.0, inside) / (high - low)


def note_on_range(found: list[tuple[float, float, float]], value_range: Range | None) -> str:
    """What a reader must know where deep images use little of their range; empty where they do not."""
    little = [each for each in found if each[2] < LITTLE]
    if not little:
        return ""
    least, most = min(each[0] for each in little), max(each[1] for each in little)
    return (
        f"{len(little)} of {len(found)} images of more than 8 bits that were looked at use less than {LITTLE:.0%} of "
        f"{'the value range given' if value_range else 'the range of their bit depth'} (their values: {least:g} to "
        f"{most:g}): they are nearly one grey for a model. --value-range {least:g} {most:g} spreads these values"
    )


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """(top row, (rows, w) float64 values) of strips of the image."""
    rows = max(1, (1 << 20) // max(image.width, 1))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))) if rows < image.height else image
        yield top, np.asarray(strip).astype(np.float64)


def _first(value: object) -> float:
    """TIFF's tags are numbers or tuples of them."""
    return float(value[0] if isinstance(value, tuple) else value)  # type: ignore[arg-type]
