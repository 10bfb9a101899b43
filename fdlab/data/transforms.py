"""Views: random crops, turns and colour changes as pure functions of one generator a sample.

A view is drawn (``draw``: one generator a sample, a dozen numbers) and then applied to the whole
batch (``apply``). Two routes, the same draws: small images of one size go through one batched bilinear
resampling; large or varied ones are cropped one by one with antialiasing and meet the rest there.
``apply`` is ``begin`` (one by one, 8 bits where the images have 8 bits) and ``finish`` (the whole batch on any
device), so that a loader's process can do the one and the training device the other.
The global random generators of torch and numpy are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fdlab.data import vision as tv
from fdlab.data.randaugment import Policy, draw_policy, rand_augment
from fdlab.data.sending import sent
from fdlab.data.view import CONTRASTIVE as CONTRASTIVE
from fdlab.data.view import LIGHT as LIGHT
from fdlab.data.view import NONE as NONE
from fdlab.data.view import PAPER_FD as PAPER_FD
from fdlab.data.view import View as View
from fdlab.randomness import stream, uniforms

UNIFORMS = 12  # one a setting, always all drawn: switching one setting off leaves the others' draws alone


@dataclass(frozen=True)
class Draws:
    """Everything random about a batch of views: ``uniforms`` (B, 12) in [0, 1), ``noise`` (B, 3, s, s)."""

    uniforms: np.ndarray
    noise: Tensor | None
    policies: tuple[Policy, ...] = ()


@dataclass(frozen=True)
class PartialViews:
    """Views half way between ``begin`` and ``finish``.

    Attributes:
        images: (B, 3, h, w), uint8 or float32 in [0, 1].
        draws: of what is left to do; None: nothing is.
        cropped: the crop is done.
    """

    images: Tensor
    draws: Draws | None
    cropped: bool = False


def draw(view: View, generators: Sequence[np.random.Generator], size: int) -> Draws:
    """Draw one view a generator, for outputs of ``size`` pixels."""
    uniforms = np.stack([generator.random(UNIFORMS) for generator in generators])
    noise = None
    if view.noise:
        drawn = [generator.standard_normal((3, size, size), dtype=np.float32) for generator in generators]
        noise = torch.from_numpy(np.stack(drawn))
    policies = (
        tuple(draw_policy(g, view.randaugment, view.magnitude, view.magnitude_sd) for g in generators)
        if view.randaugment
        else ()
    )
    return Draws(uniforms, noise, policies)


def draw_views(view: View, seed: int, counters: Sequence[Sequence[int]], size: int) -> Draws:
    """``draw`` from ``stream(seed, "view", *counters)`` of each sample, all at once where uniforms are enough."""
    if view.noise or view.randaugment:
        return draw(view, [stream(seed, "view", *each) for each in counters], size)
    return Draws(uniforms(seed, "view", counters, UNIFORMS), None)


def apply(images: Tensor | Sequence[Tensor], view: View, draws: Draws, size: int, *, direct: bool) -> Tensor:
    """The views: (B, 3, size, size) float32 in [0, 1].

    Args:
        images: (B, 3, h, w) or a list of (3, h, w), uint8 or float32 in [0, 1].
        direct: how images without a crop are brought to ``size``, see ``fit``.
    """
    return finish(begin(images, view, draws, size, direct=direct), view, size)


def begin(images: Tensor | Sequence[Tensor], view: View, draws: Draws, size: int, *, direct: bool) -> PartialViews:
    """What is done image by image; small images of one size are left to ``finish``. uint8 stays uint8.

    Where nothing but a crop, a flip and RandAugment was asked for, nothing is left.
    """
    # resampling without antialiasing is right only where nothing is made smaller
    if isinstance(images, Tensor) and max(images.shape[-2:]) <= size:
        return PartialViews(images, draws)
    done = [_one(image, view, draws.uniforms[i : i + 1], size, direct) for i, image in enumerate(images)]
    same = len({image.dtype for image in done}) == 1
    out = torch.stack(done if same else [to_float(image) for image in done])
    if view.rotate or view.shift:
        return PartialViews(out, draws, cropped=True)
    mirrored = draws.uniforms[:, 4] < view.flip
    if mirrored.any():
        out = torch.where(torch.from_numpy(mirrored)[:, None, None, None], out.flip(-1), out)
    out = _augmented(out, draws)
    return PartialViews(out, replace(draws, policies=()), cropped=True) if view.recolours else PartialViews(out, None)


def finish(partial: PartialViews, view: View, size: int) -> Tensor:
    """(B, 3, size, size) float32 in [0, 1], on the device of ``partial.images``."""
    images, draws = to_float(partial.images), partial.draws
    if draws is None:
        return images
    if not partial.cropped or view.rotate or view.shift:
        count = len(images)
        sizes = np.array([images.shape[-2:]] * count, dtype=np.float64)
        whole = np.tile([0.0, 0.0, size, size], (count, 1))
        boxes = whole if partial.cropped else crop_boxes(view, draws.uniforms, sizes)
        images = _augmented(_resample(images, view, draws.uniforms, boxes, size), draws)
    return _recolour(images, view, draws)


def _augmented(images: Tensor, draws: Draws) -> Tensor:
    if not draws.policies:
        return images
    return torch.stack([rand_augment(*pair) for pair in zip(images, draws.policies, strict=True)])


def crop_boxes(view: View, uniforms: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(B, 4) top, left, height, width in pixels of images of ``sizes`` (B, 2).

    The share of the area is uniform, the log of width / height uniform over the part of its range that
    fits into the image, so that the drawn area is always kept.
    """
    h, w = sizes[:, 0], sizes[:, 1]
    if view.crop is None:
        return np.stack([np.zeros_like(h), np.zeros_like(w), h, w], axis=1)
    share = view.crop[0] + uniforms[:, 0] * (view.crop[1] - view.crop[0])
    least, most = np.log(share * w / h), np.log(w / (share * h))
    low = np.clip(np.log(view.ratio[0]), least, most)
    high = np.clip(np.log(view.ratio[1]), least, most)
    ratio = np.exp(low + uniforms[:, 1] * (high - low))
    width = np.minimum(np.sqrt(share * h * w * ratio), w)
    height = np.minimum(np.sqrt(share * h * w / ratio), h)
    return np.stack([uniforms[:, 2] * (h - height), uniforms[:, 3] * (w - width), height, width], axis=1)


def fit(images: Tensor, size: int, *, direct: bool) -> Tensor:
    """The evaluation transform: (..., 3, h, w) -> (..., 3, size, size) float32 in [0, 1].

    ``direct`` (square images of one size): resized straight to ``size``. Otherwise the short side goes to
    ``size * 256 / 224`` and the centre is cut out, the long side and the crop rounded as torchvision and timm do.
    Bilinear with antialias; small images are enlarged.
    """
    return to_float(fitted(images, size, direct=direct))


def fitted(images: Tensor, size: int, *, direct: bool) -> Tensor:
    """``fit`` that leaves 8 bits 8 bits."""
    images = _without_ends(images)
    h, w = images.shape[-2:]
    straight = direct and h == w
    short = size if direct else round(size * 256 / 224)
    target = [short, short] if straight else [int(short * h / min(h, w)), int(short * w / min(h, w))]
    if target != [h, w]:
        images = tv.resize(images, target, antialias=True)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return images[..., top : top + size, left : left + size]


def _without_ends(images: Tensor) -> Tensor:
    """The middle of images more than 16 times as long as wide: enlarged whole, a strip would take all memory."""
    h, w = images.shape[-2:]
    longest = 16 * min(h, w)
    if max(h, w) <= longest:
        return images
    height, width = min(h, longest), min(w, longest)
    top, left = (h - height) // 2, (w - width) // 2
    return images[..., top : top + height, left : left + width]


def to_float(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; float images as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _one(image: Tensor, view: View, uniforms: np.ndarray, size: int, direct: bool) -> Tensor:
    """One image of any size, cropped (or fitted, when the view has no crop) to ``size``; uint8 stays uint8."""
    if view.crop is None:
        return fitted(image, size, direct=direct).contiguous()
    h, w = image.shape[-2:]
    box = crop_boxes(view, uniforms, np.array([[h, w]], dtype=np.float64))[0]
    height, width = max(1, round(box[2])), max(1, round(box[3]))
    top, left = min(round(box[0]), h - height), min(round(box[1]), w - width)
    how = tv.InterpolationMode(view.interpolation)
    resized = tv.resized_crop(image, top, left, height, width, [size, size], how, antialias=True)
    return (resized if resized.dtype == torch.uint8 else resized.clamp(0, 1)).contiguous()


def _resample(images: Tensor, view: View, u: np.ndarray, boxes: np.ndarray, size: int) -> Tensor:
    """Crop, mirror, turn and shift in one bilinear resampling; outside of the image it is mirrored."""
    h, w = images.shape[-2:]
    mirrored = u[:, 4] < view.flip
    if not (view.rotate or view.shift) and (h, w) == (size, size) and (boxes == [0, 0, h, w]).all():
        if mirrored.any():
            chosen = sent(torch.from_numpy(mirrored), images.device)[:, None, None, None]
            images = torch.where(chosen, images.flip(-1), images)
        return images
    angle = np.deg2rad(view.rotate) * (2 * u[:, 5] - 1)
    top, left, height, width = boxes.T
    sx, sy = width / w, height / h  # half extents of the box where the image spans -1 to 1
    cx, cy = (2 * left + width) / w - 1, (2 * top + height) / h - 1
    dx, dy = 2 * view.shift * (2 * u[:, 6:8] - 1).T / size
    cos, sin, sign = np.cos(angle), np.sin(angle), np.where(mirrored, -1.0, 1.0)
    a, b, c, d = sx * cos * sign, -sx * sin, sy * sin * sign, sy * cos  # box * turn * mirror
    theta = np.stack([a, b, cx - a * dx - b * dy, c, d, cy - c * dx - d * dy], axis=1)
    matrix = sent(torch.from_numpy(theta.astype(np.float32)).reshape(-1, 2, 3), images.device)
    grid = F.affine_grid(matrix, [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolour(images: Tensor, view: View, draws: Draws) -> Tensor:
    if not view.recolours:
        return images.clamp(0, 1)
    u = sent(torch.from_numpy(draws.uniforms.astype(np.float32)), images.device)[:, :, None, None, None]
    if view.brightness:
        images = images * (1 + view.brightness * (2 * u[:, 8] - 1))
    if view.contrast:
        middle = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
        images = middle + (images - middle) * (1 + view.contrast * (2 * u[:, 9] - 1))
    if view.saturation or view.grey:
        kept = 1 + view.saturation * (2 * u[:, 10] - 1)
        kept = torch.where(u[:, 11] < view.grey, torch.zeros_like(kept), kept)
        grey = _grey(images)
        images = grey + (images - grey) * kept
    if draws.noise is not None:
        images = images + view.noise * sent(draws.noise, images.device)
    return images.clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601: (B, 1, h, w)."""
    weights = sent(torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype), images.device)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)
