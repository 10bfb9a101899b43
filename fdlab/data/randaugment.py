"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as a pure function of one generator a sample.

The fifteen operations and strengths of timm's ``rand-m9-mstd0.5-inc1``, which the paper's fine-tuning
uses: each of ``ops`` operations is chosen with replacement, applied with probability 0.5, at strength
``magnitude`` of 10 with Gaussian spread; "increasing" means that more is always further from the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fdlab.data import vision as tv

FILL = (124.0, 116.0, 104.0)  # what is shifted or turned in: ImageNet's mean colour


@dataclass(frozen=True)
class Policy:
    """What was drawn for one image: ``ops`` rows of (operation, is applied, strength in [0, 1], sign)."""

    choice: np.ndarray
    applied: np.ndarray
    strength: np.ndarray
    sign: np.ndarray


def draw_policy(generator: np.random.Generator, ops: int, magnitude: float, spread: float) -> Policy:
    """The operations of one image."""
    uniforms = generator.random((3, ops))
    strength = np.clip(magnitude + spread * generator.standard_normal(ops), 0, 10) / 10
    return Policy(
        (uniforms[0] * len(OPERATIONS)).astype(int), uniforms[1] < 0.5, strength, np.where(uniforms[2] < 0.5, -1.0, 1.0)
    )


def rand_augment(image: Tensor, policy: Policy) -> Tensor:
    """(3, h, w), uint8 or float32 in [0, 1] -> the same, by way of 8 bits, as the operations are defined."""
    if not policy.applied.any():
        return image
    whole = image.dtype == torch.uint8
    out = image if whole else (image * 255).round().clamp(0, 255).to(torch.uint8)
    names = list(OPERATIONS)
    for choice, applied, strength, sign in zip(
        policy.choice, policy.applied, policy.strength, policy.sign, strict=True
    ):
        if applied:
            out = OPERATIONS[names[choice]](out, float(strength), float(sign))
    return out if whole else out.float() / 255


def _moved(image: Tensor, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
    degrees = [math.degrees(math.atan(value)) for value in shear]
    return tv.affine(
        image,
        angle=0.0,
        translate=list(shift),
        scale=1.0,
        shear=degrees,
        interpolation=tv.InterpolationMode.BILINEAR,
        fill=list(FILL),
        center=[0.0, 0.0],
    )


def _solarize_add(image: Tensor, strength: float, sign: float) -> Tensor:
    brighter = (image.int() + min(128, int(strength * 110))).clamp(max=255).to(torch.uint8)
    return torch.where(image < 128, brighter, image)


def factor(strength: float, sign: float) -> float:
    """How much of the image is kept where it is blended with a plainer one; above 1: the contrary."""
    return max(0.1, 1 + sign * 0.9 * strength)


OPERATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "autocontrast": lambda x, m, s: tv.autocontrast(x),
    "equalize": lambda x, m, s: tv.equalize(x),
    "invert": lambda x, m, s: tv.invert(x),
    "rotate": lambda x, m, s: tv.rotate(x, s * m * 30, interpolation=tv.InterpolationMode.BILINEAR, fill=list(FILL)),
    "posterize": lambda x, m, s: tv.posterize(x, bits=4 - int(m * 4)),
    "solarize": lambda x, m, s: tv.solarize(x, threshold=float(256 - min(256, int(m * 256)))) if m * 256 >= 1 else x,
    "solarize_add": _solarize_add,
    "color": lambda x, m, s: tv.adjust_saturation(x, factor(m, s)),
    "contrast": lambda x, m, s: tv.adjust_contrast(x, factor(m, s)),
    "brightness": lambda x, m, s: tv.adjust_brightness(x, factor(m, s)),
    "sharpness": lambda x, m, s: tv.adjust_sharpness(x, factor(m, s)),
    "shear_x": lambda x, m, s: _moved(x, shear=(s * m * 0.3, 0)),
    "shear_y": lambda x, m, s: _moved(x, shear=(0, s * m * 0.3)),
    "translate_x": lambda x, m, s: _moved(x, shift=(s * m * 0.45 * x.shape[-1], 0)),
    "translate_y": lambda x, m, s: _moved(x, shift=(0, s * m * 0.45 * x.shape[-2])),
}
