"""The models that fdlab trains: ``Design`` says which stock timm class with which positions and start.

The paper's student (B/16: ``Design(224, 16, 768, 12, 12, class_token=True, layer_scale=0.1,
init="beit")``) has one relative bias table for all blocks and no absolute positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fdlab.encoders.encoder import Size, TimmCall, blocks_of, pair
from fdlab.encoders.positions import sincos_table
from fdlab.errors import USAGE, FdlabError
from fdlab.randomness import seed_for

Position = Literal["shared_bias", "block_bias", "sincos", "learned", "none"]
Init = Literal["xavier", "beit", "timm"]
TABLE = "relative_position_bias_table"


@dataclass(frozen=True)
class Design:
    """A student's architecture and start, plain values only (they are stored in its file).

    Attributes:
        position: ``shared_bias`` one relative bias table for all blocks, ``block_bias`` one per block,
            ``sincos`` a fixed absolute table, ``learned`` an absolute table, ``none``.
        layer_scale: start of the per-channel scale on both branches; None: no layer scale.
        bias_scale: bias in the softmax = bias_scale * table; 1 is the paper's, more learns faster.
        init: ``xavier`` uniform, ``beit`` (normal 0.02 cut at one sigma, deeper branches smaller), ``timm``.
        stages: blocks a stage of a SwinV2 (Liu et al. 2022), whose width and heads double from stage to stage;
            ``width`` and ``heads`` are the first stage's, ``depth`` the sum. Empty: a plain ViT.
        window: side of the SwinV2's windows in tokens, at most the stage's grid.
    """

    image_size: Size
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    position: Position = "shared_bias"
    class_token: bool = False
    layer_scale: float | None = None
    drop_path: float = 0.0
    bias_scale: float = 1.0
    init: Init = "xavier"
    norm_eps: float = 1e-6
    in_chans: int = 3
    stages: tuple[int, ...] = ()
    window: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):  # as JSON and TOML give it
            object.__setattr__(self, "image_size", tuple(self.image_size))
        object.__setattr__(self, "stages", tuple(self.stages))
        coarsest = self.patch_size * 2 ** max(len(self.stages) - 1, 0)
        faults = [
            fault
            for wrong, fault in (
                (
                    self.position not in get_args(Position),
                    f"position '{self.position}': use one of {get_args(Position)}",
                ),
                (self.init not in get_args(Init), f"init '{self.init}': use one of {get_args(Init)}"),
                (min(self.patch_size, self.width, self.depth, self.heads) < 1, "sizes must be positive"),
                (
                    self.width % max(self.heads, 1),
                    f"width {self.width} is not a multiple of {self.heads} heads",
                ),
                (
                    any(side % max(self.patch_size, 1) or side < 1 for side in pair(self.image_size)),
                    f"image size {self.image_size} is not a multiple of patch size {self.patch_size}",
                ),
                (
                    self.position == "sincos" and self.width % 4,
                    f"sincos needs a width divisible by 4, not {self.width}",
                ),
                (self.bias_scale != 1 and not self.has_bias, "bias_scale needs a relative bias"),
                (self.bias_scale <= 0, "bias_scale must be positive"),
                (
                    any(side % max(coarsest, 1) for side in pair(self.image_size)),
                    f"image size {self.image_size} is not a multiple of {coarsest}, the coarsest patch",
                ),
                (self.stages and self.depth != sum(self.stages), f"depth {self.depth} is not the sum of the stages"),
                (bool(self.stages) != bool(self.window), "stages and window belong together"),
                (
                    self.stages
                    and (self.position != "block_bias" or self.class_token or self.layer_scale or self.bias_scale != 1),
                    "a SwinV2 has its own bias in every block (position 'block_bias', bias_scale 1), "
                    "no class token and no layer scale",
                ),
                (self.stages and self.init != "timm", "a SwinV2 has timm's start (init 'timm')"),
            )
            if wrong
        ]
        if faults:
            raise FdlabError("This design cannot be built.", "; ".join(faults) + ".", code=USAGE)

    @property
    def grid(self) -> tuple[int, int]:
        height, width = pair(self.image_size)
        patch = self.patch_size * 2 ** max(len(self.stages) - 1, 0)
        return height // patch, width // patch

    @property
    def token_width(self) -> int:
        """Channels of the final tokens: the last stage's."""
        return self.width * 2 ** max(len(self.stages) - 1, 0)

    @property
    def has_bias(self) -> bool:
        return self.position in ("shared_bias", "block_bias")

    @property
    def options(self) -> tuple[str, ...]:
        """What every caption must say because the paper has it otherwise."""
        return () if self.bias_scale == 1 else (f"bias_scale {self.bias_scale:g}",)


class Scale(nn.Module):
    """effective = factor * parameter, as a parametrisation of a bias table."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, parameter: Tensor) -> Tensor:
        return self.factor * parameter

    def right_inverse(self, effective: Tensor) -> Tensor:
        return effective / self.factor


def timm_call(design: Design) -> TimmCall:
    """The stock timm class of this design; ``global_pool=''`` keeps the final norm on all tokens."""
    if design.stages:
        return _swin_call(design)
    kwargs: dict[str, Any] = {
        "img_size": design.image_size,
        "patch_size": design.patch_size,
        "in_chans": design.in_chans,
        "num_classes": 0,
        "global_pool": "",
        "embed_dim": design.width,
        "depth": design.depth,
        "num_heads": design.heads,
        "mlp_ratio": design.mlp_ratio,
        "init_values": design.layer_scale,
        "drop_path_rate": design.drop_path,
    }
    shared = design.position == "shared_bias"
    if design.has_bias and design.class_token:
        path = "timm.models.beit.Beit"
        kwargs |= {
            "use_abs_pos_emb": False,
            "use_shared_rel_pos_bias": shared,
            "use_rel_pos_bias": not shared,
        }
    elif design.has_bias:
        path = "timm.models.vision_transformer_relpos.VisionTransformerRelPos"
        kwargs |= {"class_token": False, "fc_norm": False, "rel_pos_type": "bias", "shared_rel_pos": shared}
    else:
        path = "timm.models.vision_transformer.VisionTransformer"
        kwargs |= {
            "class_token": design.class_token,
            "fc_norm": False,
            "pos_embed": "none" if design.position == "none" else "learn",
        }
    return TimmCall(path, kwargs, design.norm_eps)


def _swin_call(design: Design) -> TimmCall:
    """SwinV2: cosine attention, log-spaced continuous bias, norms after the branches (arXiv 2111.09883)."""
    kwargs: dict[str, Any] = {
        "img_size": design.image_size,
        "patch_size": design.patch_size,
        "in_chans": design.in_chans,
        "num_classes": 0,
        "embed_dim": design.width,
        "depths": design.stages,
        "num_heads": tuple(design.heads * 2**stage for stage in range(len(design.stages))),
        "window_size": design.window,
        "mlp_ratio": design.mlp_ratio,
        "drop_path_rate": design.drop_path,
    }
    return TimmCall("timm.models.swin_transformer_v2.SwinTransformerV2", kwargs)


def build(design: Design, *, seed: int) -> nn.Module:
    """The design before its first step, in train mode: a pure function of (design, seed).

    The global random state is left as it was.
    """
    with seeded(seed_for(seed, "construct")):
        module = timm_call(design).make()
    with seeded(seed_for(seed, "initialise")), torch.no_grad():
        _initialise(module, design)
    scale_bias(module, design.bias_scale)
    return module


def fold_bias_scale(module: nn.Module) -> None:
    """Makes every table its effective value and drops the parametrisation: stock keys, same output."""
    for owner in list(module.modules()):
        if parametrize.is_parametrized(owner, TABLE):
            parametrize.remove_parametrizations(owner, TABLE, leave_parametrized=True)


def scale_bias(module: nn.Module, factor: float) -> None:
    """Lets every relative bias table learn ``factor`` times faster; what it adds to the softmax stays.

    Does nothing where the module has no such table or already learns so.
    """
    if factor != 1:
        for owner in _table_owners(module):
            parametrize.register_parametrization(owner, TABLE, Scale(factor))


def stock_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict under the stock class's keys, with effective tables; the module is left alone."""
    state = {}
    for key, tensor in module.state_dict().items():
        owner, cut, rest = f".{key}".partition(".parametrizations.")
        if cut:
            owner, name = owner.removeprefix("."), rest.split(".")[0]
            tensor = getattr(module.get_submodule(owner), name)
            key = f"{owner}.{name}".removeprefix(".")
        state[key] = tensor.detach()
    return state


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The CPU's global random state starts from ``seed`` inside and is restored after."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        yield


def _table_owners(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m._parameters.get(TABLE), nn.Parameter)]


def _initialise(module: nn.Module, design: Design) -> None:
    for owner in _table_owners(module):
        owner.get_parameter(TABLE).zero_()
    if design.position == "sincos":
        table: Tensor = module.pos_embed  # type: ignore[assignment]
        table.zero_()[:, int(design.class_token) :] = sincos_table(design.grid, design.width)
        table.requires_grad_(False)
    if design.init == "timm":
        return
    xavier = design.init == "xavier"
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight) if xavier else _cut_normal(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d) and xavier:
            nn.init.xavier_uniform_(layer.weight.view(layer.out_channels, -1))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    if design.position == "learned":
        nn.init.trunc_normal_(module.pos_embed, std=0.02)  # type: ignore[arg-type]
    if design.class_token:
        _cut_normal(module.cls_token)  # type: ignore[arg-type]
    if not xavier:
        # Branch outputs shrink with depth, so that the residual stream's variance does not grow.
        for layer_number, block in enumerate(blocks_of(module), start=1):
            for branch in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
                branch.weight.div_(math.sqrt(2.0 * layer_number))  # type: ignore[union-attr, operator]


def _cut_normal(tensor: Tensor, std: float = 0.02) -> None:
    nn.init.trunc_normal_(tensor, std=std, a=-std, b=std)
