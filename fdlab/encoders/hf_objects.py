"""Models of the library transformers as objects: what runs them on images alone, and what their processor says.

The library is not imported: an object of it can only be here where its user has imported it.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.encoders.anatomy import Run

PROCESSOR = "preprocessor_config.json"


def inner(module: nn.Module) -> nn.Module:
    """The module inside torch.compile, DataParallel and DDP."""
    while True:
        below = getattr(module, "_orig_mod", None)
        if below is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            below = module.module
        if not isinstance(below, nn.Module):
            return module
        module = below


def is_hf(module: Any) -> bool:
    """Whether this is a model of transformers."""
    library = sys.modules.get("transformers")
    base = getattr(library, "PreTrainedModel", None) if library is not None else None
    return isinstance(base, type) and isinstance(module, base)


def config_of(module: nn.Module) -> dict[str, Any]:
    """Its config as ``config.json`` would hold it."""
    found: dict[str, Any] = module.config.to_dict()  # type: ignore[union-attr, operator]
    return found


def runs_on_images(module: nn.Module) -> tuple[Run, str] | None:
    """(what runs it where calling it with images does not, in words).

    None where it needs no help, as for every module that is none of transformers.
    """
    if not is_hf(module):
        return None
    if _kind(module) == "vit_mae":
        return _unmasked, "MAE's encoder on all patches: its masks are drawn even in eval mode"
    tower = getattr(module, "vision_model", None)
    beside = isinstance(getattr(module, "text_model", None), nn.Module)
    if "siglip2" in _kind(module):
        return _in_patches, "images cut into patches, as its processor does"
    if isinstance(tower, nn.Module) and beside:
        return _tower, "the image tower alone"
    return None


def stated_square(module: nn.Module) -> tuple[tuple[int, int], str] | None:
    """(sides, what says so): of its processor, or of the number of its positions, where its config holds no size."""
    if not is_hf(module):
        return None
    config = _vision(module)
    if "siglip2" in _kind(module) and (many := getattr(config, "num_patches", None)):
        return (math.isqrt(many) * int(config.patch_size),) * 2, "config.num_patches"
    side = processor_size(processor_of(module))
    return None if side is None else ((side, side), "the processor beside its weights")


def processor_of(module: nn.Module) -> dict[str, Any]:
    """The words of the image processor beside the weights that it was loaded from; nothing is downloaded."""
    where = str(getattr(getattr(module, "config", None), "_name_or_path", "") or "")
    found: Any = Path(where) / PROCESSOR if where else None
    if where and not found.is_file():
        found = _in_cache(where, getattr(module.config, "_commit_hash", None))  # type: ignore[union-attr]
    try:
        words = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    except (OSError, ValueError):
        return {}
    return words if isinstance(words, dict) else {}


def processor_size(words: Mapping[str, Any]) -> int | None:
    """The side of the square images that a processor makes: of the crop, else of the resized image."""
    for name in ("crop_size", "size") if words.get("do_center_crop", True) else ("size",):
        size = words.get(name)
        if isinstance(size, Mapping):
            size = size.get("height") if size.get("height") == size.get("width") else None
            size = size or words[name].get("shortest_edge")
        if isinstance(size, int) and not isinstance(size, bool) and size > 3:
            return size
    return None


def colours_of(words: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(mean, std) by which a processor normalises; 0 and 1 where it says that it does not."""
    mean, std = words.get("image_mean"), words.get("image_std")
    if words.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    if not isinstance(mean, list) or not isinstance(std, list) or len(mean) != len(std) or not min(std, default=0) > 0:
        return None
    return tuple(map(float, mean)), tuple(map(float, std))


def fresh(module: nn.Module) -> Callable[[int], nn.Module]:
    """seed -> a model of this class and config, as its own initialiser makes it before training."""

    def made(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return type(module)(copy.deepcopy(module.config)).eval()  # type: ignore[no-any-return]

    return made


def _kind(module: nn.Module) -> str:
    return str(getattr(getattr(module, "config", None), "model_type", ""))


def _vision(module: nn.Module) -> Any:
    config = module.config
    return getattr(config, "vision_config", None) or config


def _in_cache(name: str, commit: str | None) -> Any:
    """The processor's file in the cache of the Hub."""
    import huggingface_hub

    try:
        found = huggingface_hub.try_to_load_from_cache(name, PROCESSOR, revision=commit)
    except (ValueError, OSError):  # a name that is no repository
        return None
    return found if isinstance(found, str) else None


def _tower(module: nn.Module, images: Tensor) -> Any:
    return module.vision_model(pixel_values=images)  # type: ignore[operator]


def _unmasked(module: nn.Module, images: Tensor) -> Any:
    encoder: Any = getattr(module, "vit", module)
    config = encoder.config
    height, width = images.shape[-2:]
    count = (height // config.patch_size) * (width // config.patch_size)
    in_order = torch.arange(count, device=images.device, dtype=torch.float32).expand(len(images), -1)
    masked, config.mask_ratio = config.mask_ratio, 0.0
    try:
        return encoder(pixel_values=images, noise=in_order)
    finally:
        config.mask_ratio = masked


def _in_patches(module: nn.Module, images: Tensor) -> Any:
    """SigLIP 2 for any aspect ratio takes patches (row, column, channel), a mask and the grid."""
    side = int(_vision(module).patch_size)
    many, _, height, width = images.shape
    grid = height // side, width // side
    cut = images.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1)
    patches = cut.reshape(many, grid[0] * grid[1], -1)
    tower = module.vision_model if hasattr(module, "text_model") else module
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=images.device)
    return tower(patches, mask, torch.tensor([grid] * many, device=images.device))  # type: ignore[operator]
