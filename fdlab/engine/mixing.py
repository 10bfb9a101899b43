"""Mixup, CutMix and random erasing of a whole batch, drawn from (seed, step), never from what ran before.

Mixup (Zhang et al. 2018, arXiv 1710.09412), CutMix (Yun et al. 2019, arXiv 1905.04899), random erasing
(Zhong et al. 2017, arXiv 1708.04896), with timm's conventions, which the paper's fine-tuning uses: one
weight a batch, image i is mixed with image B - 1 - i, the label's weight follows the box that was cut.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fdlab.data.loader import Batch
from fdlab.data.sending import sent
from fdlab.encoders.devices import channels
from fdlab.randomness import stream


class MixSettings(BaseModel):
    """How images of a batch are mixed and erased; the default does nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mixup: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0: no mixup")
    cutmix: float = Field(0.0, ge=0, description="alpha of the Beta distribution; 0: no CutMix")
    probability: float = Field(1.0, ge=0, le=1, description="of mixing a batch at all")
    switch: float = Field(0.5, ge=0, le=1, description="probability of CutMix where both are on")
    erase: float = Field(0.0, ge=0, le=1, description="probability of erasing a box of an image, with noise")


def mix(batch: Batch, settings: MixSettings, classes: int, seed: int) -> Batch:
    """The batch with mixed images and, where mixed, ``targets`` (B, classes) that sum to 1."""
    if not (settings.mixup or settings.cutmix):
        return batch
    draw = stream(seed, "mix", batch.step)
    used, cut, centre = draw.random(), draw.random(), draw.random(2)
    if used >= settings.probability:
        return batch
    cutting = settings.cutmix > 0 and (not settings.mixup or cut < settings.switch)
    alpha = settings.cutmix if cutting else settings.mixup
    weight = float(draw.beta(alpha, alpha))
    images, weight = _cut(batch.images[0], weight, centre) if cutting else (_blend(batch.images[0], weight), weight)
    one_hot = images.new_zeros(len(images), classes).scatter_(1, batch.labels.unsqueeze(1), 1.0)
    return replace(batch, images=[images], targets=weight * one_hot + (1 - weight) * one_hot.flip(0))


def _blend(images: Tensor, weight: float) -> Tensor:
    return weight * images + (1 - weight) * images.flip(0)


def _cut(images: Tensor, weight: float, centre: np.ndarray) -> tuple[Tensor, float]:
    """A box of area share 1 - weight from the partner; the weight is that of what was really cut."""
    height, width = images.shape[-2:]
    share = math.sqrt(1 - weight)
    cut_h, cut_w = int(height * share), int(width * share)
    y, x = int(centre[0] * height), int(centre[1] * width)
    top, bottom = max(0, y - cut_h // 2), min(height, y + cut_h // 2)
    left, right = max(0, x - cut_w // 2), min(width, x + cut_w // 2)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def erase(batch: Batch, probability: float, seed: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Batch:
    """A box of 2 % to 33 % of an image, aspect 0.3 to 3.3, becomes noise that is normal after normalisation.

    Each image's box is drawn from (seed, step, position in the batch). The result is a new batch.
    """
    if not probability:
        return batch
    images = batch.images[0]
    height, width = images.shape[-2:]
    erased: list[int] = []
    boxes: list[Tensor] = []
    noises: list[Tensor] = []
    for place in range(len(images)):
        draw = stream(seed, "erase", batch.step, place)
        if draw.random() >= probability:
            continue
        for _ in range(10):
            area = draw.uniform(0.02, 1 / 3) * height * width
            aspect = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                top, left = draw.integers(0, height - h + 1), draw.integers(0, width - w + 1)
                box, noise = torch.zeros(1, height, width, dtype=torch.bool), torch.zeros(len(mean), height, width)
                box[:, top : top + h, left : left + w] = True
                drawn = draw.standard_normal((len(mean), h, w), dtype=np.float32)
                noise[:, top : top + h, left : left + w] = torch.from_numpy(drawn)
                erased.append(place)
                boxes.append(box)
                noises.append(noise)
                break
    if not erased:
        return batch
    # All at once: each transfer to a device costs more than what it carries.
    at, box, noise = (sent(t, images.device) for t in (torch.tensor(erased), torch.stack(boxes), torch.stack(noises)))
    scale, centre = (channels(tuple(values), images.device, images.dtype) for values in (std, mean))
    return replace(batch, images=[images.index_copy(0, at, torch.where(box, centre + scale * noise, images[at]))])


def soft_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """``-mean_i sum_c q_ic log softmax(logits_i)_c`` with q = (1 - smoothing) targets + smoothing / classes.

    ``logits`` and ``targets`` (B, classes). Equal logits score ln(classes), whatever the targets:

    >>> round(float(soft_cross_entropy(torch.zeros(2, 10), torch.eye(10)[:2], smoothing=0.1)), 4)
    2.3026
    """
    smooth = (1 - smoothing) * targets + smoothing / logits.shape[-1]
    return -(smooth * F.log_softmax(logits.float(), -1)).sum(-1).mean()
