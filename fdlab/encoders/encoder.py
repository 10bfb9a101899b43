"""What every model is once it is open: ``Encoder`` (tokens, attention, logits) and ``EncoderInfo``.

``TimmCall`` remembers how the stock timm class was made, so that a file can be rebuilt elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

from fdlab.encoders.anatomy import COMPLETE, Anatomy, anatomy_of, at_rest, remember
from fdlab.encoders.devices import channels
from fdlab.errors import NOT_UNDERSTOOD, USAGE, FdlabError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Floats3 = tuple[float, float, float]
Size = int | tuple[int, int]
# What a model was pre-trained on (mim: masked images); fine-tuning on labels afterwards does not change it.
Kind = Literal["mim", "contrastive", "distilled", "supervised", "image-text", "random", "unknown"]


@dataclass(frozen=True)
class EncoderInfo:
    """Everything known about an open model; sizes in pixels of its input, tokens counted."""

    family: str
    depth: int
    width: int
    heads: int
    patch_size: int
    grid: tuple[int, int]
    image_size: Size
    prefix_tokens: int = 0
    prefix_kinds: tuple[str, ...] = ()
    mean: Floats3 = IMAGENET_MEAN
    std: Floats3 = IMAGENET_STD
    norm_eps: float = 1e-6
    activation: str = "gelu"
    interpolation: str = "bicubic"
    timm_name: str | None = None
    parameters: int = 0
    sha256: str = ""
    source: str = ""
    container: str = ""
    repository: str = ""  # OWNER/NAME@COMMIT of the Hugging Face Hub
    taken: str = ""
    others: tuple[str, ...] = ()
    classes: int = 0
    options: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    heads_from: str = ""  # where the head count comes from
    title: str = ""  # the family in words
    stage_depths: tuple[int, ...] = ()  # of hierarchical models, as are the next two
    stage_heads: tuple[int, ...] = ()
    windows: tuple[tuple[int, int], ...] = ()
    positions: str = ""  # settings of the positions that are in no tensor, e.g. pre-training windows
    left_over: int = 0  # known keys of the file that are no part of this network
    kind: Kind = "unknown"
    attention: str = COMPLETE  # or "none: WHY", "refused: WHY": what the probes of attention say


@dataclass(frozen=True)
class TimmCall:
    """A stock timm class and its arguments, all of them plain values.

    ``norm_eps`` stands apart because timm takes a norm class; 1e-6 is the default of its plain ViTs, and
    ``timm.create_model`` is left to the architecture's own.
    """

    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    norm_eps: float = 1e-6

    def make(self) -> nn.Module:
        """A fresh module; consumes the global random state as the class does."""
        module, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(module), name)(**self.arguments())

    def arguments(self) -> dict[str, Any]:
        """What the class is called with: the plain values, with norm and MLP classes in place."""
        name = self.path.rpartition(".")[2]
        kwargs = dict(self.kwargs)
        for key in ("norm_layer", "embed_norm_layer"):
            if isinstance(kwargs.get(key), str):
                kwargs[key] = partial(getattr(importlib.import_module("timm.layers"), kwargs[key]), eps=self.norm_eps)
        if "norm_layer" not in kwargs and self.norm_eps != (1e-5 if name.startswith("Swin") else 1e-6):
            kwargs["norm_layer"] = partial(nn.LayerNorm, eps=self.norm_eps)
        if isinstance(kwargs.get("mlp_layer"), str):
            kwargs["mlp_layer"] = getattr(importlib.import_module("timm.layers"), kwargs["mlp_layer"])
        return kwargs

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Encoder:
    """One interface over all models. Gradients follow the caller; what fdlab has opened is in eval mode.

    A module of the caller's own (``fdlab.wrap``) keeps its modes: a reading is made in eval mode and gives them back.
    """

    def __init__(
        self, module: nn.Module, info: EncoderInfo, call: TimmCall | None = None, anatomy: Anatomy | None = None
    ) -> None:
        if anatomy is not None:
            remember(module, anatomy)
        self.anatomy = anatomy_of(module)
        self.module = module if self.anatomy.live else module.eval()
        self.info, self.call = info, call
        self.tensors = ""  # digest of the tensors of a module of the caller's own, when it was wrapped
        self.untrained: Callable[[int], nn.Module] | None = None  # seed -> the module before training, where given

    @classmethod
    def wrap(cls, module: nn.Module, *, call: TimmCall | None = None, **known: Any) -> Encoder:
        """An encoder around a timm module: sizes are read off the module, the rest is given.

        Args:
            known: fields of ``EncoderInfo`` that no module holds: family, mean, std, source, ...
        """
        kind = known.get("family") if known.get("family") in get_args(Kind) else "unknown"  # a task's family is a kind
        fields = {"family": "module", "kind": kind, **describe(module), **known}
        info = EncoderInfo(**fields)
        return cls(module, EncoderInfo(**{**fields, "sha256": identity(module, info)}), call)

    def __repr__(self) -> str:
        info = self.info
        height, width = pair(info.image_size)
        return (
            f"Encoder({info.family}: {info.depth} blocks, {info.heads} heads, width {info.width}, "
            f"patch {info.patch_size}, {height}x{width} pixels, {info.parameters / 1e6:.1f} M parameters\n"
            f"  from {info.source or 'a module'}, weights {info.sha256[:12]})"
        )

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> Encoder:
        """Moves the module in place; returns the encoder."""
        self.module.to(device)
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> what the model expects: (images - mean) / std, on its device."""
        if images.ndim != 4 or images.shape[1] != len(self.info.mean) or not images.is_floating_point():
            why = f"Got {tuple(images.shape)} of {images.dtype}."
            raise FdlabError("Images must be float (B, 3, H, W) in [0, 1].", why, code=USAGE)
        images = images.to(self.device)
        mean, std = (channels(tuple(v), images.device, images.dtype) for v in (self.info.mean, self.info.std))
        return (images - mean) / std

    def tokens(self, images: Tensor, norm: bool = True) -> Tensor:
        """Final tokens (B, N, C), prefix first; ``norm=False``: what enters the final norm.

        Hierarchical models: the last stage, row major. Models that pool before their norm have no
        final norm on tokens, and both forms are the same.
        """
        with self.reading():
            return self.anatomy.read_tokens(self.module, self._checked(images), norm)

    def reading(self) -> AbstractContextManager[None]:
        """Eval mode while a module of the caller's own is read; nothing for what is in eval mode anyhow."""
        return at_rest(self.module) if self.anatomy.live else nullcontext()

    def check_unchanged(self) -> None:
        """Refuses a module of the caller's own whose weights are not those that it was wrapped with.

        Raises:
            FdlabError: code 2.
        """
        from fdlab.encoders.identity import tensors_digest

        if self.tensors and tensors_digest(self.module) != self.tensors:
            raise FdlabError(
                f"The weights of {self.info.title} changed since it was wrapped.",
                "Training went on, or something wrote into it.",
                "Wrap the module again, and measure while it stands still.",
                code=USAGE,
            )

    def explain(self) -> str:
        """What was inferred of a wrapped module, from what, and what was assumed: a line each."""
        said = (*self.anatomy.said, *self.info.assumed, f"attention: {self.info.attention}")
        return "\n".join(dict.fromkeys(said))

    def attention(self, images: Tensor, blocks: Sequence[int] = (0, -1)) -> dict[int, Tensor]:
        """{block: (B, heads, N, N)} after softmax; windows: (B * windows, heads, n, n). Keys as given."""
        from fdlab.encoders.attending import maps_of

        images, depth = self._checked(images), self.info.depth
        wrong = [block for block in blocks if not -depth <= block < depth]
        if wrong:
            raise FdlabError(
                f"No block {wrong[0]}.",
                f"The model has {depth} blocks, counted from 0.",
                f"Use 0 to {depth - 1}, or -1 for the last.",
                code=USAGE,
            )
        places = tuple(sorted({block % depth for block in blocks}))
        maps = maps_of(self, images, places)
        return {block: maps[block % depth] for block in blocks}

    def logits(self, images: Tensor) -> Tensor:
        """(B, classes) where the file holds a classifier, else an error."""
        if not self.info.classes:
            raise FdlabError(
                f"{self.info.source or 'This model'} holds no classifier.",
                "It is an encoder only.",
                "Use tokens(), or train a classifier: fdlab finetune, fdlab evaluate linear.",
                code=NOT_UNDERSTOOD,
            )
        with self.reading():
            return self.anatomy.read_logits(self.module, self._checked(images))

    def _checked(self, images: Tensor) -> Tensor:
        """The images on the model's device and type, or an error that names the wrong size."""
        channels = len(self.info.mean)
        if images.ndim != 4 or images.shape[1] != channels:
            raise FdlabError(f"Images must be (B, {channels}, H, W).", f"Got {tuple(images.shape)}.", code=USAGE)
        size, patch = tuple(images.shape[-2:]), self.info.patch_size
        wanted = pair(self.info.image_size)
        if size != wanted:
            why = f"The model's position table is for {wanted[0]}x{wanted[1]} pixels."
            if min(size) < patch:
                why = f"That is smaller than one patch of {patch} pixels. {why}"
            elif size[0] % patch or size[1] % patch:
                why = f"That is not a multiple of the patch size {patch}. {why}"
            raise FdlabError(
                f"Images of {size[0]}x{size[1]} pixels do not fit.",
                why,
                "Resize the images, or open the model with image_size= (a multiple of the patch size).",
                code=USAGE,
            )
        weight = next(self.module.parameters())
        return images.to(device=weight.device, dtype=weight.dtype)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks in order; of hierarchical models, those of all stages."""
    return anatomy_of(module).parts(module)


def known_by_names(module: nn.Module) -> bool:
    """Whether timm's names describe the module: a patch embedding of a known grid, then attention blocks."""
    embed, blocks = getattr(module, "patch_embed", None), blocks_of(module)
    grid = all(hasattr(embed, field) for field in ("img_size", "patch_size", "grid_size"))
    return bool(blocks) and grid and hasattr(blocks[-1], "attn") and hasattr(blocks[-1].attn, "num_heads")


def describe(module: nn.Module) -> dict[str, Any]:
    """The fields of ``EncoderInfo`` that a timm module shows by itself."""
    blocks = blocks_of(module)
    embed: Any = getattr(module, "patch_embed", None)
    if not known_by_names(module):
        raise FdlabError(
            f"{type(module).__name__} is not a vision transformer that fdlab reads.",
            "It has no patch embedding of a known grid followed by attention blocks.",
            "Use a ViT, DeiT, BEiT or Swin.",
            code=NOT_UNDERSTOOD,
        )
    size, patch = pair(embed.img_size), pair(embed.patch_size)
    # Hierarchical models: the tokens of the last stage lie on a coarser grid than the patches.
    levels: Any = getattr(module, "feature_info", None)
    stride = levels[-1]["reduction"] if hasattr(module, "layers") else None
    grid = (size[0] // stride, size[1] // stride) if stride else tuple(embed.grid_size)
    norms = [m for m in blocks[0].modules() if isinstance(m, nn.LayerNorm | RmsNorm)]
    mlp = getattr(blocks[0], "mlp", None)
    kinds = _prefix_kinds(module)
    return {
        "depth": len(blocks),
        "width": int(module.num_features),  # type: ignore[arg-type]
        "heads": int(blocks[-1].attn.num_heads),  # type: ignore[union-attr, arg-type]
        "patch_size": int(patch[0]),
        "grid": (int(grid[0]), int(grid[1])),
        "image_size": size[0] if size[0] == size[1] else size,
        "prefix_tokens": len(kinds),
        "prefix_kinds": kinds,
        "norm_eps": float(norms[0].eps) if norms else 0.0,
        "activation": activation_name(getattr(mlp, "act", None)),
        "parameters": sum(p.numel() for p in module.parameters()),
        "classes": int(getattr(module, "num_classes", 0) or 0),
        **(_stages(module) if stride else {}),
    }


def _stages(module: nn.Module) -> dict[str, Any]:
    """Depth, heads and window of each stage of a hierarchical model."""
    stages: Any = [stage.blocks for stage in module.layers if hasattr(stage, "blocks")]  # type: ignore[union-attr]
    return {
        "stage_depths": tuple(len(blocks) for blocks in stages),
        "stage_heads": tuple(int(blocks[0].attn.num_heads) for blocks in stages),
        "windows": tuple(pair(getattr(blocks[0], "window_size", 0)) for blocks in stages),
    }


def activation_name(layer: nn.Module | None) -> str:
    """``gelu`` is the exact one; ``gelu_tanh``, ``quick_gelu``, ``silu`` or the class name."""
    if isinstance(layer, nn.GELU):
        return "gelu_tanh" if layer.approximate == "tanh" else "gelu"
    name = type(layer).__name__.lower()
    return {"gelu": "gelu", "gelutanh": "gelu_tanh", "quickgelu": "quick_gelu", "nonetype": ""}.get(name, name)


ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu")


def check_activation(name: str) -> None:
    """Raises an FdlabError (code 2) for a name that is not in ``ACTIVATIONS``."""
    if name not in ACTIVATIONS:
        raise FdlabError(f"Unknown activation '{name}'.", fix=f"Use one of {', '.join(ACTIVATIONS)}.", code=USAGE)


def set_activation(module: nn.Module, name: str) -> None:
    """Every block's MLP gets one of ``ACTIVATIONS``."""
    from timm.layers import get_act_layer

    check_activation(name)
    for block in blocks_of(module):
        block.mlp.act = get_act_layer(name)()  # type: ignore[union-attr]


# Fields that only describe, or that follow from the tensors: two openings of one network may differ in them.
_DESCRIPTIVE = frozenset(
    {"family", "kind", "title", "source", "container", "taken", "others", "left_over", "sha256", "timm_name"}
    | {"repository", "assumed", "heads_from", "stage_depths", "stage_heads", "windows", "positions", "attention"}
)


def identity(module: nn.Module, info: EncoderInfo) -> str:
    """The weights' identity: sha256 over the resolved configuration and every tensor, by sorted name.

    Where a file lies and what it is called do not enter; head count, eps and preprocessing do.
    """
    config = {name: value for name, value in asdict(info).items() if name not in _DESCRIPTIVE}
    if info.positions:
        config["positions"] = info.positions
    config["class"] = type(module).__mro__[0].__name__
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _prefix_kinds(module: nn.Module) -> tuple[str, ...]:
    kinds = [] if getattr(module, "cls_token", None) is None else ["cls"]
    if getattr(module, "dist_token", None) is not None:
        kinds.append("dist")
    registers = getattr(module, "reg_token", None)
    return tuple(kinds + ["register"] * (0 if registers is None else registers.shape[1]))


def pair(size: Any) -> tuple[int, int]:
    """A side, or two sides, as (height, width).

    >>> pair(224), pair([8, 16])
    ((224, 224), (8, 16))
    """
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
