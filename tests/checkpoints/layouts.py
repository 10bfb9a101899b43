"""Own random files in the authors' layouts: a stock timm module, its weights under the authors' keys.

Each layout is (module, content of the file, keywords of ``open_model``); sizes are the caller's.
"""

from __future__ import annotations

import argparse
import re

import torch
from random_modules import EPS5, Sizes, beit, eva, renamed, spread, vit
from swin_layouts import fd_swin, fd_swin_v2_shared, simmim_swin_v2, swin, swin_timm_keys
from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from fdlab.encoders.positions import sincos_table


def dino(s):
    return vit(s), lambda m: renamed(m), {"heads": s.heads}


def dino_full(s):
    noise = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(3, 1)}

    def content(m):
        teacher = {**renamed(m, prefix="module.backbone."), **{f"module.{key}": value for key, value in noise.items()}}
        return {"student": teacher, "teacher": teacher, "args": argparse.Namespace(arch="vit_base"), "epoch": 1}

    return vit(s), content, {"heads": s.heads}


def ibot_full(s):
    def content(m):
        weights = {**renamed(m, prefix="backbone."), "head.last_layer2.weight_g": torch.zeros(3, 1)}
        student = {**weights, "backbone.masked_embed": torch.zeros(1, s.width)}
        return {"student": student, "teacher": weights, "ibot_loss": {"center": torch.zeros(1, 3)}}

    return vit(s), content, {"heads": s.heads}


def dinov2(s):
    def content(m):
        return {**renamed(m), "mask_token": torch.zeros(1, s.width)}

    return vit(s, init_values=1.0), content, {"heads": s.heads}


def dinov2_giant(s):
    ratio = {"mlp_ratio": (2 * s.hidden + 0.5) / s.width, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    module = vit(s, init_values=1.0, reg_tokens=4, no_embed_class=True, **ratio)

    def content(m):
        state = renamed(m, (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"), ("reg_token", "register_tokens"))
        row = torch.randn(1, 1, s.width)
        table = torch.cat([row, state["pos_embed"]], 1)
        chunked = {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", key): value for key, value in state.items()}
        chunked |= {"pos_embed": table, "cls_token": state["cls_token"] - row}
        return {"model": {f"teacher.backbone.{key}": value for key, value in chunked.items()}}

    return module, content, {"heads": s.heads}


def dinov3(s):
    known = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "swiglu_align_to": 1}
    more = {"use_abs_pos_emb": False, "num_reg_tokens": 4, "init_values": 1e-5, "norm_layer": EPS5}
    module = eva(s, **known, **more, ref_feat_shape=None)

    def content(m):
        rules = ((r"gamma_([12])", r"ls\1.gamma"), ("reg_token", "storage_tokens"))
        state = renamed(m, *rules, ("fc1_g", "w1"), ("fc1_x", "w2"), (r"mlp\.fc2", "mlp.w3"))
        for block in range(s.depth):
            stem = f"blocks.{block}.attn."
            query, value = state.pop(f"{stem}q_bias"), state.pop(f"{stem}v_bias")
            state[f"{stem}qkv.bias"] = torch.cat([query, torch.randn(s.width), value])  # masked by the authors
            state[f"{stem}qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(s.width)
        count = s.width // s.heads // 4
        state["rope_embed.periods"] = 100.0 ** (torch.arange(count) / count)
        return {**state, "mask_token": torch.zeros(1, s.width)}

    return module, content, {"image_size": s.patch * s.grid}


def _sincos(s, row_first=False, class_token=True):
    module = vit(s, class_token=class_token)
    table = sincos_table((s.grid, s.grid), s.width)
    if row_first:
        table = table.view(s.grid, s.grid, -1).transpose(0, 1).flatten(0, 1)
    with torch.no_grad():
        module.pos_embed.zero_()[:, int(class_token) :] = table
    return module


def mae(s):
    return _sincos(s), lambda m: {"model": renamed(m)}, {"heads": s.heads}


def mae_finetuned(s):
    module = vit(s, global_pool="avg", num_classes=7, fc_norm=None)
    return module, lambda m: {"model": renamed(m)}, {"heads": s.heads}


def moco_flat(s):
    return _sincos(s, row_first=True), lambda m: {"model": renamed(m)}, {"heads": s.heads}


def moco_linear(s):
    module = vit(s, num_classes=5, global_pool="token")
    module.pos_embed.data.copy_(_sincos(s, row_first=True).pos_embed.data)
    return module, lambda m: {"state_dict": renamed(m, prefix="module."), "arch": "other"}, {"heads": s.heads}


def ijepa(s):
    def content(m):
        return {"target_encoder": renamed(m, prefix="module."), "predictor": {"module.x": torch.zeros(1)}}

    return _sincos(s, class_token=False), content, {"heads": s.heads}


def deit(s):
    return vit(s, num_classes=6, global_pool="token"), lambda m: {"model": renamed(m)}, {"heads": s.heads}


def deit_distilled(s):
    module = spread(VisionTransformerDistilled(**s.common, num_classes=6))
    return module, lambda m: {"model": renamed(m)}, {"heads": s.heads}


def deit3(s):
    module = vit(s, num_classes=6, global_pool="token", init_values=1e-6, no_embed_class=True)
    return module, lambda m: {"model": renamed(m, (r"ls([12])\.gamma", r"gamma_\1"))}, {"heads": s.heads}


def beit_pretrained(s):
    def content(m):
        return {"model": {**renamed(m), "lm_head.weight": torch.zeros(9, s.width), "mask_token": torch.zeros(1)}}

    return beit(s), content, {}


def beit_finetuned(s):
    module = beit(s, use_shared_rel_pos_bias=False, use_rel_pos_bias=True, num_classes=4, global_pool="avg")
    return module, lambda m: {"module": {key: value.half() for key, value in renamed(m).items()}}, {}


def data2vec_finetuned(s):
    module = beit(s, num_classes=4, global_pool="avg")

    def content(m):
        known = {"optimizer": None, "lr_scheduler": None, "csr_tensor_module_names": set(), "global_steps": 3}
        return {"module": {key: value.half() for key, value in renamed(m).items()}, **known}

    return module, content, {}


def fd_vit(s):
    def content(m):
        teacher = {
            "feature_model.visual.conv1.weight": torch.zeros(4, 3, 2, 2),
            "feature_model.ln_final.bias": torch.zeros(4),
        }
        return {"model": {**renamed(m, prefix="encoder."), "decoder.0.weight": torch.zeros(4, s.width, 1), **teacher}}

    return beit(s), content, {}


def simmim_vit(s):
    def content(m):
        beside = {"decoder.0.weight": torch.zeros(4, s.width, 1, 1), "encoder.mask_token": torch.zeros(1, 1, s.width)}
        return {"model": {**renamed(m, prefix="encoder."), **beside}}

    return beit(s), content, {}


_CLIP = (
    (r"^patch_embed\.proj\.", "conv1."),
    ("^cls_token$", "class_embedding"),
    ("^pos_embed$", "positional_embedding"),
    (r"^norm_pre\.", "ln_pre."),
    (r"^norm\.", "ln_post."),
    (r"^blocks\.", "transformer.resblocks."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj\.", "attn.out_proj."),
    (r"mlp\.fc1\.", "mlp.c_fc."),
    (r"mlp\.fc2\.", "mlp.c_proj."),
)


def _clip(s, act, extra):
    module = vit(s, pre_norm=True, act_layer=act, norm_layer=EPS5)

    def content(m):
        state = renamed(m, *_CLIP, prefix="module.visual.")
        state["module.visual.class_embedding"] = state["module.visual.class_embedding"][0, 0]
        state["module.visual.positional_embedding"] = state["module.visual.positional_embedding"][0]
        state["module.visual.proj"] = torch.zeros(s.width, 3)
        state |= {"module.positional_embedding": torch.zeros(4, 3), "module.logit_scale": torch.zeros(())}
        return {**state, **extra} if not isinstance(extra, str) else {"state_dict": state, "name": extra, "epoch": 2}

    return module, content, {"heads": s.heads}


def clip_openai(s):
    scalars = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    return _clip(s, "quick_gelu", scalars)


def open_clip(s):
    return _clip(s, "gelu", "ViT-B-32")


def open_clip_quick(s):
    return _clip(s, "quick_gelu", "ViT-B-32-quickgelu")


def _rope(m, prefix=""):
    sin, cos = m.rope.get_embed().chunk(2, -1)
    state = {"rope.freqs_cos": cos.clone(), "rope.freqs_sin": sin.clone()}
    return state | {f"blocks.0.attn.{key}": value for key, value in state.items()}


def eva02_base(s):
    module = eva(s, qkv_fused=False, scale_mlp=True)

    def content(m):
        rules = ((r"mlp\.norm", "mlp.ffn_ln"), ("fc1_g", "w1"), ("fc1_x", "w2"), (r"mlp\.fc2", "mlp.w3"))
        state = renamed(m, *rules, (r"([qv])_proj\.bias", r"\1_bias"))
        return {"model": {**state, **_rope(m), "mask_token": torch.zeros(1), "lm_head.bias": torch.zeros(3)}}

    return module, content, {}


def eva02_small_finetuned(s):
    """Fused qkv, packed gate, and a rotation whose unit is another grid."""
    reference = (s.grid + 3, s.grid + 3)
    module = eva(s, global_pool="avg", num_classes=4, use_fc_norm=True, ref_feat_shape=reference)
    rules = ((r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    return module, lambda m: {"module": {**renamed(m, *rules), **_rope(m)}}, {}


def eva02_without_tables(s):
    """No rope.freqs_*: heads must be given, and the rotary unit is the published 16 x 16."""
    module = eva(s, ref_feat_shape=(16, 16))
    rules = ((r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))
    return module, lambda m: {"module": renamed(m, *rules)}, {"heads": s.heads}


def mae_small(s):
    module = vit(s, qkv_bias=False, norm_layer=EPS5, no_embed_class=True)
    rules = ((r"^patch_embed\.proj", "patchify"), ("^blocks", "transformer"), (r"^norm\.", "layer_norm."))

    def content(m):
        state = renamed(m, *rules, prefix="encoder.")
        state["encoder.pos_embedding"] = state.pop("encoder.pos_embed").transpose(0, 1).contiguous()
        return {**state, "decoder.mask_token": torch.zeros(1)}

    return module, content, {"heads": s.heads}


TORCHVISION = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    ("^cls_token$", "class_token"),
    ("^pos_embed$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
    (r"^blocks\.", "encoder.layers.encoder_layer_"),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"attn\.qkv\.", "self_attention.in_proj_"),
    (r"attn\.proj\.", "self_attention.out_proj."),
    (r"mlp\.fc1\.", "mlp.0."),
    (r"mlp\.fc2\.", "mlp.3."),
)


def torchvision_vit(s):
    module = vit(s, num_classes=5, global_pool="token")
    return module, lambda m: renamed(m, *TORCHVISION), {"heads": s.heads}


LAYOUTS = {
    "dino": (dino, "dino"),
    "dino_full": (dino_full, "dino"),
    "ibot_full": (ibot_full, "ibot"),
    "dinov2": (dinov2, "dinov2"),
    "dinov2_giant": (dinov2_giant, "dinov2"),
    "dinov3": (dinov3, "dinov3"),
    "mae": (mae, "mae"),
    "mae_finetuned": (mae_finetuned, "mae"),
    "moco_flat": (moco_flat, "mocov3"),
    "moco_linear": (moco_linear, "mocov3"),
    "ijepa": (ijepa, "ijepa"),
    "deit": (deit, "deit"),
    "deit_distilled": (deit_distilled, "deit_distilled"),
    "deit3": (deit3, "deit3"),
    "beit_pretrained": (beit_pretrained, "beit"),
    "beit_finetuned": (beit_finetuned, "beit_finetuned"),
    "data2vec_finetuned": (data2vec_finetuned, "data2vec_vision"),
    "fd_vit": (fd_vit, "fd_vit_distilled"),
    "simmim_vit": (simmim_vit, "simmim_vit"),
    "swin": (swin, "swin_v1"),
    "swin_timm_keys": (swin_timm_keys, "swin_v1"),
    "simmim_swin_v2": (simmim_swin_v2, "simmim_swin_v2"),
    "fd_swin": (fd_swin, "fd_swin_distilled"),
    "fd_swin_v2_shared": (fd_swin_v2_shared, "fd_swin_v2_distilled"),
    "clip_openai": (clip_openai, "openai_clip"),
    "open_clip": (open_clip, "open_clip"),
    "open_clip_quick": (open_clip_quick, "open_clip"),
    "eva02_base": (eva02_base, "eva02"),
    "eva02_small_finetuned": (eva02_small_finetuned, "eva02"),
    "eva02_without_tables": (eva02_without_tables, "eva02"),
    "mae_small": (mae_small, "mae_small"),
    "torchvision_vit": (torchvision_vit, "torchvision"),
}
SIZES = [Sizes(48, 3, 3, 4, 5, 91), Sizes(160, 5, 1, 6, 3, 200), Sizes(32, 2, 2, 2, 4, 64)]
