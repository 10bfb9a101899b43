"""Files of timm itself: the architecture's name and arguments are known, so timm makes the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fdlab.checkpoints.blank import no_larger_than, unfitting
from fdlab.checkpoints.builders.built import Ask, Built, Sentences, classes_of
from fdlab.checkpoints.builders.vit import build_vit
from fdlab.encoders.encoder import Kind, TimmCall, pair
from fdlab.encoders.student import seeded
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError
from fdlab.randomness import seed_for

# Arguments of a training or of loading, which say nothing about the network.
_NOT_ARGUMENTS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "features_only"}
    | {"model_name", "cache_dir", "num_classes"}
)


def build_timm(ask: Ask, state: dict[str, Tensor]) -> Built:
    """The stock architecture with the file's arguments; ViTs without a known name by their tensors."""
    import timm

    arch = (ask.contents.arch or "").split("/")[-1].split(".")[0]
    if not timm.is_model(arch):
        return build_vit(ask, state)
    arguments = _arguments(ask.contents.value("arguments"))
    kwargs: dict[str, Any] = {
        "model_name": arch,
        "pretrained": False,
        **arguments,
        "num_classes": _classes(state),
    }
    if ask.heads is not None:
        kwargs["num_heads"] = ask.heads
    where = "arguments in " + ask.contents.said["arguments"][1] if "num_heads" in arguments else f"architecture {arch}"
    said: Sentences = (f"heads = {ask.heads}: given by the user",) if ask.heads is not None else ()
    if "num_heads" not in kwargs:
        said = (f"heads: those of timm's {arch}",)
    native = TimmCall("timm.create_model", kwargs)
    known: dict[str, Any] = {"timm_name": arch, "kind": kind_of_name(f"{arch}.{ask.fact('tag', '')}")}
    if "mean" not in ask.contents.said:  # as timm's training script does where it is told nothing
        cfg: Any = timm.get_pretrained_cfg(arch)
        if cfg is not None:
            known |= {"mean": tuple(cfg.mean), "std": tuple(cfg.std), "interpolation": cfg.interpolation}
            said = (*said, f"mean {tuple(cfg.mean)}, std {tuple(cfg.std)}: those of timm's {arch}")
    if ask.image_size is None:
        return Built(native, state, where, said, known=known)
    with _errors(ask, arch), seeded(seed_for(0, "construct")):
        if faults := unfitting(native.make, state, kwargs):
            raise ValueError("; ".join(faults[:4]))
        module: Any = native.make()
        old = pair(module.patch_embed.img_size)
        module.load_state_dict(state, strict=True)
        module.set_input_size(img_size=pair(ask.image_size))  # timm's own way to move its tables
    call = TimmCall("timm.create_model", {**kwargs, "img_size": ask.image_size})
    size = pair(ask.image_size)
    said = (*said, f"position table for {old[0]}x{old[1]} -> {size[0]}x{size[1]} pixels: timm's own way (antialias)")
    return Built(call, module.state_dict(), where, said, known=known)


def _arguments(given: Any) -> dict[str, Any]:
    """The words of a file that are arguments of a network: plain values under the names of arguments."""
    table = given if isinstance(given, Mapping) else {}
    return {
        key: value
        for key, value in table.items()
        if isinstance(key, str) and key.isidentifier() and key not in _NOT_ARGUMENTS and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= 100 and all(map(_is_plain, value))
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 100)


def _classes(state: Mapping[str, Tensor]) -> int:
    return classes_of(state, "head.weight", "head.fc.weight")


# How words of a timm name begin that tell what its weights were trained on; the first kind that fits counts, since
# weights that were fine-tuned on labels name both.
_KINDS: dict[Kind, str] = {
    "image-text": r"clip|siglip|metaclip|mclip|tinyclip|openai|laion|webli|dfn|datacomp|merged|pe_",
    "mim": r"mim|mae|beit|ijepa|eva",
    "distilled": r"eupe|c_radio",
    "contrastive": r"dino|lvd|moco",
    "supervised": r"in1k|in12k|in21k|in22k",
}


def kind_of_name(name: str) -> Kind:
    """What the weights of a timm name were trained on, by the words of architecture and tag.

    >>> kind_of_name("eva02_base_patch14_224.mim_in22k"), kind_of_name("vit_base_patch16_224")
    ('mim', 'unknown')
    """
    return next((kind for kind, words in _KINDS.items() if re.search(rf"(^|[._])({words})", name)), "unknown")


# Tables of positions, whose sizes follow the image and not the architecture.
_POSITIONS = re.compile(r"(^|.*\.)(pos_embed|relative_position\w*|attn_mask|relative_coords_table|rel_pos_[hw])$")


def is_stock(name: str) -> bool:
    """Whether timm has an architecture of this name."""
    import timm

    return timm.is_model(name)


def agrees(name: str, arguments: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether timm's architecture of this name has exactly these keys and shapes; tables of positions may differ."""
    import timm

    kept = _arguments(arguments)
    try:
        with torch.device("meta"), no_larger_than(state, kept):
            module: nn.Module = timm.create_model(name, pretrained=False, **{**kept, "num_classes": _classes(state)})
    except Exception:  # arguments of another network come in many types
        return False
    wanted = module.state_dict()
    return set(wanted) == set(state) and all(
        wanted[key].shape == state[key].shape for key in wanted if not _POSITIONS.match(key)
    )


def fits(arch: str | None, arguments: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether the file's ``arch`` names the timm architecture of these tensors."""
    name = (arch or "").split("/")[-1].split(".")[0]
    return is_stock(name) and agrees(name, arguments, state)


@contextmanager
def _errors(ask: Ask, arch: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        code = USAGE if isinstance(error, AssertionError) else NOT_UNDERSTOOD
        raise FdlabError(
            f"{ask.path}: timm's {arch} could not be made.", why, "Check image_size=.", code=code
        ) from error
