"""Hugging Face layouts: ViT, DeiT, ViT-MAE, BEiT, data2vec-vision, DINOv2 and CLIP's image tower.

``config.json`` gives heads, eps and activation; both spellings of transformers 4 and 5 are read.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.clip import FINAL, MEAN, STD, add_axes
from fdlab.checkpoints.families.dinov2 import fold_class_row
from fdlab.checkpoints.families.family import HALF, Family, Network, all_of, is_masked, under
from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
_WRAPPERS = ("vit.", "deit.", "beit.", "data2vec_vision.", "dinov2.", "dinov2_with_registers.", "ijepa.", "vit_msn.")
_RENAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^/?layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^/?(cls_)?classifier\.", "head."),
    (r"^/?distillation_classifier\.", "head_dist."),
)
_LEFTOVERS = (
    r"(.*\.)?pooler\.dense\..*",
    r".*mask_token",
    r"/?(lm_head|decoder|auxiliary_head|decode_head|fpn\d)\..*",
    r".*relative_position_index",
)
_PARTS = re.compile(r"(blocks\.\d+\.attn)\.(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_ORDER = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}


def _join(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """q, k, v as one matrix; without a key bias (BEiT) the biases stay apart as ``q_bias`` and ``v_bias``."""
    joined: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[int, Tensor]] = {}
    for key, value in state.items():
        match = _PARTS.fullmatch(key)
        if match:
            parts.setdefault((match[1], match[3]), {})[_ORDER[match[2]]] = value
        else:
            joined[key] = value
    for (stem, kind), found in parts.items():
        if set(found) == {0, 1, 2}:
            joined[f"{stem}.qkv.{kind}"] = torch.cat([found[0], found[1], found[2]])
        else:
            joined |= {f"{stem}.{'qkv'[place]}_{kind}": value for place, value in found.items()}
    return _plain_head(joined)


def _plain_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier over something else than one width (DINOv2: class token and mean) is left out."""
    width = state["patch_embed.proj.weight"].shape[0]
    if "head.weight" in state and state["head.weight"].shape[-1] != width:
        return {key: value for key, value in state.items() if not key.startswith("head.")}
    return state


def _model_type(contents: Contents, *types: str) -> bool:
    """Whether ``config.json`` names one of these types."""
    return contents.value("model_type") in types


def _matches_beit(network: Network, contents: Contents) -> bool:
    return _is_vit(network) and (
        "encoder.layer.0.lambda_1" in network or _model_type(contents, "beit", "data2vec-vision")
    )


def _is_dinov2(network: Network) -> bool:
    return "encoder.layer.0.layer_scale1.lambda1" in network


def _has_registers(network: Network) -> bool:
    return "embeddings.register_tokens" in network


def _matches_mae(network: Network, contents: Contents) -> bool:
    decoder = any(
        re.match(r"/decoder\.(decoder_layers|decoder_encoder|mask_token|decoder_pos)", key) for key in network
    )
    return decoder or _model_type(contents, "vit_mae")


def _is_vit(network: Network) -> bool:
    return "encoder.layer.0.attention.attention.query.weight" in network


_CLIP = Family(
    name="hf_clip_vision",
    title="Hugging Face CLIP, image tower",
    kind="image-text",
    encoders={"vision_model": under("vision_model.", "clip.vision_model.", "model.vision_model.", "")},
    default=("vision_model",),
    marker="embeddings.patch_embedding.weight",
    matches=lambda network, contents: "pre_layrnorm.weight" in network,  # so spelled there
    leftovers=(
        r"/(text_model|visual_projection|text_projection|classifier)\..*",
        r"/?logit_scale",
        r"(/text_model\.)?.*position_ids",
        r"(visual_projection|text_projection)\..*",
    ),
    renames=(
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^post_layernorm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.self_attn\.", ".attn."),
        (r"\.layer_norm([12])\.", r".norm\1."),
    ),
    convert=lambda state: add_axes(_join(state)),
    heads=_HEADS,
    mean=MEAN,
    std=STD,
    norm_eps=1e-5,
    activation="quick_gelu",
    resize_is_ours=True,
    notes=(FINAL,),
)
_VIT = Family(
    name="hf_vit",
    title="Hugging Face ViT or DeiT",
    kind="unknown",  # DINO's files on the hub have this layout as well, and fine-tuned ones of any origin
    encoders={"model": under(*_WRAPPERS, "")},
    default=("model",),
    matches=all_of(_is_vit),
    marker="embeddings.patch_embeddings.projection.weight",
    leftovers=_LEFTOVERS,
    renames=_RENAMES,
    convert=_join,
    heads=_HEADS,
    mean=HALF,
    std=HALF,
    norm_eps=1e-12,
)
_BEIT = replace(
    _VIT,
    name="hf_beit",
    title="Hugging Face BEiT or data2vec-vision",
    kind="mim",
    matches=_matches_beit,
    proof=is_masked,
    builder="beit",
    resize_is_ours=True,
)
_MAE = replace(
    _VIT,
    name="hf_vitmae",
    title="Hugging Face ViT-MAE",
    kind="mim",
    matches=_matches_mae,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    fixed_positions=True,
)
_DINOV2 = replace(
    _VIT,
    name="hf_dinov2",
    title="Hugging Face DINOv2",
    kind="contrastive",
    matches=all_of(_is_dinov2),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    norm_eps=1e-6,
    resize="offset",
    resize_is_ours=True,
)
_REGISTERS = replace(
    _DINOV2,
    title="Hugging Face DINOv2 with registers",
    matches=all_of(_is_dinov2, _has_registers),
    convert=lambda state: fold_class_row(_join(state)),
    resize="antialias",
)
FAMILIES = (_CLIP, _BEIT, _REGISTERS, _DINOV2, _MAE, _VIT)
