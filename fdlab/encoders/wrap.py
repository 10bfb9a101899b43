"""``wrap``: any module becomes an ``Encoder``, without being touched. What is not known for certain is asked for.

One traced pass shows where attention, blocks and tokens are; ``knockout.py`` proves that nothing was missed. A refusal
concerns attention alone: features, curvature and attribution work without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import Run, at_rest
from fdlab.encoders.dissect import Dissection
from fdlab.encoders.encoder import Encoder, EncoderInfo, Size, TimmCall
from fdlab.encoders.hf_objects import fresh, is_hf
from fdlab.encoders.identity import own_identity, tensors_digest
from fdlab.encoders.witness import same_randomness


def wrap(
    module: nn.Module,
    *,
    name: str = "",
    image_size: Size | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    forward: Run | None = None,
    tokens: str | Callable[[nn.Module, Tensor], Tensor] | None = None,
    prefix: int | Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    blocks: str | Sequence[str] | None = None,
    untrained: Callable[[int], nn.Module] | None = None,
    check: bool = True,
) -> Encoder:
    """An encoder around any module: own ViTs, timm, torchvision, transformers, CNNs. The module is not touched.

    What is not given is inferred by passes over noise images; ``Encoder.explain()`` lists it with its reasons.
    ``info.attention`` is ``complete``, ``none: WHY`` or ``refused: WHY``; a refusal stops probes of attention alone.

    Args:
        module: in any mode; every reading is made in eval mode and gives the modes back.
        name: for tables; by default the class's name.
        image_size: pixels, int or (height, width).
        mean, std: of each channel, as in training; ImageNet's where neither is known.
        forward: (module, images) -> anything, where images alone do not run it.
        tokens: where the final tokens are: a module's dotted name, ``output``, ``output.KEY``, or
            (module, images) -> (B, N, C) or (B, C, H, W).
        prefix: tokens that are no patches: how many, or their kinds: ("cls", "register").
        grid: rows and columns of the patch tokens.
        blocks: dotted names in order, or a pattern: ``layers.*``.
        untrained: seed -> the module before training, for the untrained control.
        check: False leaves out the proofs; every table then says "unchecked".

    Raises:
        FdlabError: code 3, what cannot be inferred and is to be given; code 2, a module that has no parts.
    """
    subject = Dissection(module, forward, tokens, prefix, grid, blocks, check)
    encoder = _encoder(subject, name, image_size, mean, std)
    encoder.untrained = untrained or (fresh(encoder.module) if is_hf(encoder.module) else None)
    return encoder


def wrap_opened(module: nn.Module, *, call: TimmCall | None, image_size: Size | None = None, **known: Any) -> Encoder:
    """An encoder around a module that fdlab built itself and that timm's names do not describe: CNNs, hybrids."""
    subject = Dissection(module.eval(), None, None, None, None, None, True, live=False)
    mean, std = known.pop("mean", None), known.pop("std", None)
    return _encoder(subject, type(module).__name__, image_size, mean, std, call, **known)


def _encoder(
    subject: Dissection, name: str, image_size: Size | None, mean: Any, std: Any, call: TimmCall | None = None,
    **known: Any,
) -> Encoder:  # fmt: skip
    """Takes the module, dissects it, and describes what was found."""
    subject.take(name, None if mean is None else len(mean))
    module = subject.module
    with at_rest(module), same_randomness(subject.device), torch.no_grad():
        subject.find_size(image_size)
        if subject.check:
            subject.check_sound()
        fields: dict[str, Any] = {}
        fields["mean"], fields["std"] = subject.colours(mean, std)
        anatomy, found, trace = subject.anatomy()
    height, width = subject.size
    fields |= {**found, "image_size": height if height == width else subject.size, "family": "module"}
    fields |= {"parameters": sum(p.numel() for p in module.parameters()), "attention": anatomy.attention}
    fields |= {"title": f"{subject.title} (own module)" if anatomy.live else subject.title}
    fields |= {"heads_from": "seen in one forward pass" if found["heads"] else "no attention is read"}
    fields |= {"source": name or f"{subject.title} (module)", **known}
    fields["assumed"] = tuple(dict.fromkeys((*known.get("assumed", ()), *subject.assumed)))
    info = EncoderInfo(**fields)
    tokens = getattr(anatomy.tokens, "__qualname__", anatomy.tokens)
    digest = tensors_digest(module)
    sha = own_identity(module, info, trace, (digest, tokens, *anatomy.blocks))
    encoder = Encoder(module, EncoderInfo(**{**info.__dict__, "sha256": sha}), call, anatomy)
    encoder.tensors = digest if anatomy.live else ""
    return encoder
