"""Models that take other than three channels: opened for colour images, or refused with what to give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from fdlab.encoders.encoder import Encoder, identity
from fdlab.errors import USAGE, FdlabError


def in_channels(encoder: Encoder) -> int:
    """The channels of the images that a model takes: those of its first convolution; 3 where it has none.

    An inferred anatomy states its own number."""
    if encoder.anatomy.calls is not None:
        return len(encoder.info.mean)
    first = next((module for module in encoder.module.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def check_colour(encoder: Encoder) -> Encoder:
    """The encoder, where it takes images of three channels as all data here are.

    Raises:
        FdlabError: code 2, it takes another number.
    """
    count = in_channels(encoder)
    if count != 3:
        raise FdlabError(
            f"The model {encoder.info.source or encoder.info.family} takes images of {count} "
            f"channel{'s' if count > 1 else ''}, and the images here have 3.",
            "Nothing says which of its channels a colour is.",
            f"Give --channels {count} (or SOURCE?channels={count}): it sees each image's mean over colours"
            f"{', repeated' if count > 1 else ''}, as a grey image.",
            code=USAGE,
        )
    return encoder


def as_told(encoder: Encoder, *, prefix_tokens: int | None, channels: int | None) -> Encoder:
    """The encoder, for images of three channels where ``channels`` is its own other number.

    Raises:
        FdlabError: code 2, a number that is not the model's.
    """
    if prefix_tokens is not None and prefix_tokens != encoder.info.prefix_tokens:
        raise FdlabError(
            f"{encoder.info.source} has {encoder.info.prefix_tokens} prefix tokens, not {prefix_tokens}.",
            f"Its tensors say so: {', '.join(encoder.info.prefix_kinds) or 'none'}.",
            "Leave --prefix-tokens (prefix_tokens=) out.",
            code=USAGE,
        )
    if channels is None or channels == 3 == in_channels(encoder):
        return encoder
    if channels != in_channels(encoder):
        raise FdlabError(
            f"{encoder.info.source} takes images of {in_channels(encoder)} channels, not {channels}.",
            fix=f"Give --channels {in_channels(encoder)}, or leave it out.",
            code=USAGE,
        )
    return _for_colour(encoder, channels)


def _for_colour(encoder: Encoder, channels: int) -> Encoder:
    """The same answers on grey images: a first convolution over 3 channels whose weights are the sum's third."""
    owner, name, first = next(
        (module, key, cast(nn.Conv2d, child))
        for module in encoder.module.modules()
        for key, child in module.named_children()
        if isinstance(child, nn.Conv2d)
    )
    with torch.no_grad():
        weight = first.weight.sum(1, keepdim=True).expand(-1, 3, -1, -1).div(3).contiguous()
    settings: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
    size = cast(tuple[int, int], first.kernel_size)
    wide = nn.Conv2d(3, first.out_channels, size, bias=first.bias is not None, **settings)
    wide.to(device=first.weight.device, dtype=first.weight.dtype)
    wide.weight = nn.Parameter(weight, requires_grad=first.weight.requires_grad)
    wide.bias = first.bias
    setattr(owner, name, wide)
    mean, std = (sum(values) / len(values) for values in (encoder.info.mean, encoder.info.std))
    call = encoder.call and replace(encoder.call, kwargs={**encoder.call.kwargs, "in_chans": 3})
    grey = f"channels = {channels}: given by the user; it sees the mean of each image's colours" + (
        f", repeated {channels} times" if channels > 1 else ""
    )
    info = replace(
        encoder.info,
        mean=(mean,) * 3,
        std=(std,) * 3,
        assumed=(*encoder.info.assumed, grey),
        parameters=sum(parameter.numel() for parameter in encoder.module.parameters()),
    )
    return Encoder(encoder.module, replace(info, sha256=identity(encoder.module, info)), call)
