"""RandAugment of a whole batch at once, for images that are on a GPU: all that drew one operation are one group.

The same policies and operations as ``randaugment.py``, which works image by image; equal to it up to the rounding of
8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.data import vision as tv
from fdlab.data.randaugment import FILL, OPERATIONS, Policy, factor
from fdlab.data.sending import sent


def rand_augment_batch(images: Tensor, policies: Sequence[Policy]) -> Tensor:
    """(B, 3, h, w), uint8 or float32 in [0, 1] -> the same, on the images' device."""
    whole = images.dtype == torch.uint8
    out = images.clone() if whole else (images * 255).round().clamp(0, 255).to(torch.uint8)
    choice, applied, strength, sign = (
        np.stack([getattr(policy, name) for policy in policies]) for name in ("choice", "applied", "strength", "sign")
    )
    for slot in range(choice.shape[1]):
        for number, name in enumerate(OPERATIONS):
            rows = np.flatnonzero(applied[:, slot] & (choice[:, slot] == number))
            if len(rows):
                place = sent(torch.from_numpy(rows), out.device)
                out[place] = GROUPED[name](out[place], strength[rows, slot], sign[rows, slot])
    if whole:
        return out
    changed = sent(torch.from_numpy(applied.any(1)), out.device).view(-1, 1, 1, 1)
    return torch.where(changed, out.float() / 255, images)


def _each(values: np.ndarray, like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, 1, 1, 1): one number an image."""
    return sent(torch.from_numpy(np.asarray(values)).to(dtype), like.device).view(-1, 1, 1, 1)


def _blend(x: Tensor, other: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    """``f x + (1 - f) other`` with each image's factor f."""
    factors = _factors(m, s)
    mixed = x.float() * _each(factors, x) + other.float() * _each(1 - factors, x)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _factors(m: np.ndarray, s: np.ndarray) -> np.ndarray:
    return np.array([factor(*pair) for pair in zip(m, s, strict=True)])


def _sharpness(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    # In torchvision's order of operations: what is cut off to 8 bits would differ at whole numbers.
    smooth = tv.adjust_sharpness(x, 0.0).float()
    mixed = x.float() + _each(1 - _factors(m, s), x) * (smooth - x.float())
    return mixed.clamp_(0, 255).to(torch.uint8)


def _autocontrast(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    low, high = x.float().amin((2, 3), keepdim=True), x.float().amax((2, 3), keepdim=True)
    flat = low == high
    spread = torch.where(flat, 1.0, (high - low) * (1 / 255))
    return ((x - torch.where(flat, 0.0, low)) / spread).clamp_(0, 255).to(torch.uint8)


def _contrast(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    grey = tv.adjust_saturation(x, 0.0)[:, :1].float()
    return _blend(x, grey.mean((1, 2, 3), keepdim=True), m, s)


def _posterize(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    bits = 4 - (m * 4).astype(int)
    return x & _each(256 - 2 ** (8 - bits), x, torch.int16).to(torch.uint8)


def _solarize(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    return torch.where(x.int() >= _each(256 - np.minimum(256, (m * 256).astype(int)), x, torch.int32), 255 - x, x)


def _solarize_add(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    brighter = (x.int() + _each(np.minimum(128, (m * 110).astype(int)), x, torch.int32)).clamp(max=255)
    return torch.where(x < 128, brighter.to(torch.uint8), x)


def _rotate(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
    angle = np.deg2rad(s * m * 30)
    return _warp(x, xx=np.cos(angle), xy=-np.sin(angle), yx=np.sin(angle), yy=np.cos(angle))


def _shear(axis: str) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
    """About the upper left corner, as timm's and Pillow's are."""

    def shear(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
        slope, (h, w) = s * m * 0.3, x.shape[-2:]
        return _warp(x, xy=slope, dx=slope * h / 2) if axis == "x" else _warp(x, yx=slope, dy=slope * w / 2)

    return shear


def _translate(axis: str) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
    def translate(x: Tensor, m: np.ndarray, s: np.ndarray) -> Tensor:
        shift = s * m * 0.45
        return _warp(x, dx=-shift * x.shape[-1]) if axis == "x" else _warp(x, dy=-shift * x.shape[-2])

    return translate


def _warp(
    x: Tensor,
    *,
    xx: np.ndarray | float = 1.0,
    xy: np.ndarray | float = 0.0,
    dx: np.ndarray | float = 0.0,
    yx: np.ndarray | float = 0.0,
    yy: np.ndarray | float = 1.0,
    dy: np.ndarray | float = 0.0,
) -> Tensor:
    """Bilinear, from where each pixel comes: ``x' = xx x + xy y + dx`` in pixels from the middle; outside: ``FILL``."""
    count, h, w = len(x), *x.shape[-2:]
    parts = [xx, np.multiply(xy, h / w), np.divide(dx, w / 2), np.multiply(yx, w / h), yy, np.divide(dy, h / 2)]
    theta = np.stack([np.broadcast_to(part, count) for part in parts], 1).astype(np.float32).reshape(-1, 2, 3)
    grid = F.affine_grid(sent(torch.from_numpy(theta), x.device), [count, 4, h, w], align_corners=False)
    padded = torch.cat([x.float(), x.new_ones((count, 1, h, w), dtype=torch.float32)], 1)
    moved, inside = F.grid_sample(padded, grid, align_corners=False).split([3, 1], 1)
    fill = _fill(x.device)
    return (moved * inside + (1 - inside) * fill).round().to(torch.uint8)


def _fill(device: torch.device) -> Tensor:
    return sent(torch.tensor(FILL), device).view(1, 3, 1, 1)


GROUPED: dict[str, Callable[[Tensor, np.ndarray, np.ndarray], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": lambda x, m, s: tv.equalize(x),
    "invert": lambda x, m, s: tv.invert(x),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": lambda x, m, s: _blend(x, tv.adjust_saturation(x, 0.0), m, s),
    "contrast": _contrast,
    "brightness": lambda x, m, s: _blend(x, torch.zeros_like(x), m, s),
    "sharpness": _sharpness,
    "shear_x": _shear("x"),
    "shear_y": _shear("y"),
    "translate_x": _translate("x"),
    "translate_y": _translate("y"),
}
