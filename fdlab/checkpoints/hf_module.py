"""Models of transformers as objects: the reader of their files opens them too, once it is shown to be the same network.

A state dict does not say what its class computes (heads, activation, a part that its owner changed). So one image runs
through both; where they differ, the object itself is wrapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.unpickle import WeightFile
from fdlab.encoders.anatomy import at_rest
from fdlab.encoders.encoder import Encoder, pair
from fdlab.encoders.hf_objects import PROCESSOR, config_of, processor_of, runs_on_images
from fdlab.encoders.witness import same_randomness

KIND = "transformers object"
_FLOATS = {torch.float16: 3e-2, torch.bfloat16: 1e-1}  # of tokens, as a share of the largest
_EXACT = 1e-4


def as_file(module: nn.Module) -> WeightFile:
    """What a folder saved from this object would hold, in memory of its own: the reader keeps the tensors."""
    state = {key: tensor.detach().to("cpu", copy=True) for key, tensor in module.state_dict().items()}
    configs: dict[str, Mapping[str, Any]] = {"config.json": config_of(module), PROCESSOR: processor_of(module)}
    return WeightFile(Path(type(module).__name__), state, KIND, configs=configs)


def differs(module: nn.Module, encoder: Encoder) -> str:
    """How the object's own tokens or logits differ from the encoder's on one image; empty where they agree."""
    weight = next(p for p in module.parameters() if p.is_floating_point())
    image = torch.randn(1, 3, *pair(encoder.info.image_size), generator=torch.Generator().manual_seed(0))
    device = torch.device("cuda", torch.cuda.current_device()) if weight.is_cuda else torch.device("cpu")
    with at_rest(module), same_randomness(device), torch.no_grad():
        try:
            tokens, logits = _outputs(module, image.to(weight.device, weight.dtype))
        except Exception as error:  # a class of any author may fail in any way
            return f"it does not run on one image ({type(error).__name__})"
        bound = _FLOATS.get(weight.dtype, _EXACT)
        own = [encoder.tokens(image, norm=norm) for norm in (True, False)]
        if tokens is None:
            return "it gives no tokens to compare"
        if min(_apart(tokens, each) for each in own) > bound:
            return "its tokens are others"
        if encoder.info.classes and logits is not None and _apart(logits, encoder.logits(image)) > bound:
            return "its logits are others"
    return ""


def _outputs(module: nn.Module, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """(the outermost ``last_hidden_state``, ``logits``) of one pass."""
    seen: list[Tensor] = []

    def watch(_part: nn.Module, _given: Any, output: Any) -> None:
        hidden = getattr(output, "last_hidden_state", None)
        if isinstance(hidden, Tensor):
            seen.append(hidden)

    hooks = [part.register_forward_hook(watch) for part in module.modules()]
    try:
        run = runs_on_images(module)
        output = run[0](module, images) if run else module(images)
    finally:
        for hook in hooks:
            hook.remove()
    logits = getattr(output, "logits", None)
    is_classes = isinstance(logits, Tensor) and logits.ndim == 2
    return (seen[-1] if seen else None), (logits if is_classes else None)  # the outermost ends last


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
