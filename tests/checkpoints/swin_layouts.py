"""Own random files in the Swin layouts: Swin V1 and V2, SimMIM's, and the feature-distilled ones."""

from __future__ import annotations

import re

import torch
from random_modules import renamed, spread
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2


def _merging_at_the_end(state):
    moved = {}
    for key, value in state.items():
        match = re.match(r"(.*)layers\.(\d+)\.downsample\.(.*)", key)
        moved[f"{match[1]}layers.{int(match[2]) - 1}.downsample.{match[3]}" if match else key] = value
    return moved


def _swin_kwargs(s):
    heads = tuple(2**stage for stage in range(3))
    return {
        "img_size": 8 * s.patch * s.grid,
        "patch_size": s.patch,
        "embed_dim": s.width // s.heads * 1,
        "depths": (2, s.depth, 1),
        "num_heads": heads,
        "window_size": s.grid,
        "drop_path_rate": 0.0,
    }


def swin(s):
    module = spread(SwinTransformer(**_swin_kwargs(s), num_classes=5))
    content = lambda m: {"model": _merging_at_the_end(renamed(m, (r"head\.fc\.", "head.")))}  # noqa: E731
    return module, content, {"image_size": 8 * s.patch * s.grid}


def swin_timm_keys(s):
    module = spread(SwinTransformer(**_swin_kwargs(s), num_classes=0))
    return module, lambda m: renamed(m), {"image_size": 8 * s.patch * s.grid}


def simmim_swin_v2(s):
    pretrained = (s.grid + 1, s.grid + 2, s.grid + 1)
    module = spread(SwinTransformerV2(**_swin_kwargs(s), num_classes=0, pretrained_window_sizes=pretrained))

    def content(m):
        state = _with_buffers(_merging_at_the_end(renamed(m, ("cpb_mlp", "rpe_mlp"), prefix="encoder.")), m)
        beside = {"decoder.0.weight": torch.zeros(4, s.width, 1, 1), "encoder.mask_token": torch.zeros(1, 1, 1)}
        return {"model": {**state, **beside}, "config": {"DATA": {"IMG_SIZE": 1}}}

    return module, content, {}


def _with_buffers(state, module):
    """The tables and shift masks that the authors' files hold and timm's do not, under ``encoder.``."""
    names = ("relative_coords_table", "relative_position_index", "attn_mask")
    return state | {f"encoder.{name}": value.clone() for name, value in module.named_buffers() if name.endswith(names)}


def fd_swin(s):
    module = spread(SwinTransformer(**_swin_kwargs(s), num_classes=0))

    def content(m):
        state = _with_buffers(_merging_at_the_end(renamed(m, prefix="encoder.")), m)
        teacher = {"feature_model.layers.0.blocks.0.norm1.weight": torch.zeros(4)}
        return {"model": {**state, "decoder.0.weight": torch.zeros(4, s.width, 1), **teacher}}

    return module, content, {}


def fd_swin_v2_shared(s):
    """One network for the position bias of a whole stage, and its tables beside it."""
    module = spread(SwinTransformerV2(**_swin_kwargs(s), num_classes=0))
    for stage in module.layers:
        for block in stage.blocks:
            block.attn.cpb_mlp.load_state_dict(stage.blocks[0].attn.cpb_mlp.state_dict())

    def content(m):
        own = _with_buffers(_merging_at_the_end(renamed(m, ("cpb_mlp", "rpe_mlp"), prefix="encoder.")), m)
        state = {}
        for key, value in own.items():
            match = re.fullmatch(r"(encoder\.layers\.\d+)\.blocks\.\d+\.attn\.(rpe_mlp\..*|relative_.*)", key)
            state[f"{match[1]}.rel_pos_bias.{match[2]}" if match else key] = value
        return {"model": {**state, "decoder.0.weight": torch.zeros(4, s.width, 1)}}

    return module, content, {}
