"""Hugging Face layouts: ViT, DeiT, ViT-MAE, BEiT, data2vec-vision, DINOv2, DINOv3, CLIP, SigLIP and AIMv2.

``config.json`` gives heads, eps and activation. Files of transformers 4, of 5, and tables of 5 in memory are read.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.clip import FINAL, MEAN, STD, add_axes
from fdlab.checkpoints.families.dinov2 import DINOV3, fold_class_row
from fdlab.checkpoints.families.family import HALF, Family, Network, all_of, is_masked, under
from fdlab.checkpoints.families.joining import join, packed_gate, plain_head
from fdlab.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD

_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
_WRAPPERS = ("vit.", "deit.", "beit.", "data2vec_vision.", "dinov2.", "dinov2_with_registers.", "ijepa.", "vit_msn.")
_BESIDE = "norm beside the encoder"
_RENAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.)?layers?\.", "blocks."),
    (r"^((encoder\.)?relative|shared)_position_bias\.", "rel_pos_bias."),
    (r"^(blocks\.\d+)\.relative_position_bias\.", r"\1.attn."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv]_proj|relative_position_bias)\.", r".attn.\1."),
    (r"\.attn\.relative_position_bias\.", ".attn."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
    (r"^/layernorm\.", f"{_BESIDE}."),
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


def _join(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The norm beside the encoder is BEiT's final one for masked modelling, unless the encoder has its own."""
    joined = plain_head(packed_gate(join(state)))
    if "norm.weight" in joined:
        return {key: value for key, value in joined.items() if not key.startswith(f"{_BESIDE}.")}
    return {key.replace(f"{_BESIDE}.", "norm."): value for key, value in joined.items()}


def _first_block(network: Network, name: str) -> bool:
    """Whether the first block has this tensor, as any release names its blocks."""
    return any(
        f"{stem}{name}" in network for stem in ("encoder.layer.0.", "layers.0.", "encoder.layers.0.", "layer.0.")
    )


def _model_type(contents: Contents, *types: str) -> bool:
    """Whether ``config.json`` names one of these types."""
    return contents.value("model_type") in types


def _matches_beit(network: Network, contents: Contents) -> bool:
    return _is_vit(network) and (_first_block(network, "lambda_1") or _model_type(contents, "beit", "data2vec-vision"))


def _is_dinov2(network: Network) -> bool:
    return _first_block(network, "layer_scale1.lambda1")


def _has_registers(network: Network) -> bool:
    return "embeddings.register_tokens" in network


def _matches_mae(network: Network, contents: Contents) -> bool:
    decoder = any(
        re.match(r"/decoder\.(decoder_layers|decoder_encoder|mask_token|decoder_pos)", key) for key in network
    )
    return decoder or _model_type(contents, "vit_mae")


def _is_vit(network: Network) -> bool:
    names = ("attention.attention.query.weight", "attention.q_proj.weight")  # as saved; transformers 5 in memory
    return any(_first_block(network, name) for name in names)


_CLIP_LEFTOVERS = (
    r"/(text_model|visual_projection|text_projection|classifier)\..*",
    r"/?logit_scale",
    r"(/text_model\.)?.*position_ids",
    r"(visual_projection|text_projection)\..*",
)
_CLIP_RENAMES = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".norm\1."),
)


def _matches_siglip(network: Network, contents: Contents) -> bool:
    return {"post_layernorm.weight", "embeddings.position_embedding.weight"} <= set(network) and not (
        {"embeddings.class_embedding", "pre_layrnorm.weight"} & set(network)
    )


def _matches_naflex(network: Network, contents: Contents) -> bool:
    return _matches_siglip(network, contents) and network["embeddings.patch_embedding.weight"].ndim == 2


def _siglip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A linear patch embedding over (row, column, channel) as the convolution that it is."""
    moved = add_axes(join(state))
    weight = moved["patch_embed.proj.weight"]
    if weight.ndim == 2:
        side = round((weight.shape[1] / 3) ** 0.5)
        moved["patch_embed.proj.weight"] = weight.reshape(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
    return moved


def _matches_dinov3(network: Network, contents: Contents) -> bool:
    return any(f"{stem}layer.0.mlp.down_proj.weight" in network for stem in ("", "model."))


def _dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without a gate, the first layer of the MLP is a plain one."""
    gated = any(".mlp.fc1_g." in key for key in state)
    return {key if gated else key.replace(".mlp.fc1_x.", ".mlp.fc1."): value for key, value in join(state).items()}


_CLIP = Family(
    name="hf_clip_vision",
    title="Hugging Face CLIP, image tower",
    kind="image-text",
    encoders={"vision_model": under("vision_model.", "clip.vision_model.", "model.vision_model.", "")},
    default=("vision_model",),
    marker="embeddings.patch_embedding.weight",
    matches=lambda network, contents: "pre_layrnorm.weight" in network,  # so spelled there
    leftovers=_CLIP_LEFTOVERS,
    renames=_CLIP_RENAMES,
    convert=lambda state: add_axes(join(state)),
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
_SIGLIP = replace(
    _CLIP,
    name="hf_siglip",
    title="Hugging Face SigLIP or SigLIP 2, image tower",
    matches=_matches_siglip,
    leftovers=(*_CLIP_LEFTOVERS, r"head\..*"),  # attention pooling
    renames=(*_CLIP_RENAMES, (r"^/?classifier\.", "head.")),
    convert=_siglip,
    heads={768: 12, 1024: 16, 1152: 16, 1536: 16},
    mean=HALF,
    std=HALF,
    norm_eps=1e-6,
    activation="gelu_tanh",
    notes=("the attention pooling after the final norm is left out",),
)
_NAFLEX = replace(
    _SIGLIP,
    name="hf_siglip2",
    title="Hugging Face SigLIP 2 for any aspect ratio (NaFlex), image tower",
    matches=_matches_naflex,
    resize="bilinear",
    resize_is_ours=False,
)
_AIM = Family(
    name="hf_aimv2",
    title="Hugging Face AIMv2",
    kind="image-text",  # its decoder predicts pixels and captions
    encoders={"vision_model": under("vision_model.", "")},
    default=("vision_model",),
    matches=lambda network, contents: "encoder.layers.0.rms_norm1.weight" in network,
    marker="embeddings.patch_embed.weight",
    leftovers=(r"head\..*", r"/(text_model|visual_projection|text_projection|logit_scale).*"),
    renames=(
        (r"^embeddings\.patch_embed\.", "patch_embed.proj."),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.rms_norm\.", "patch_embed.norm."),
        (r"^rms_norm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.attention\.out_proj\.", ".attn.proj."),
        (r"\.attention\.", ".attn."),
        (r"\.rms_norm([12])\.", r".norm\1."),
        (r"\.ffn\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.ffn\.up_proj\.", ".mlp.fc1_x."),
        (r"\.ffn\.down_proj\.", ".mlp.fc2."),
    ),
    convert=lambda state: add_axes(join(state)),
    heads={1024: 8, 1536: 12, 2048: 16, 3072: 24},
    mean=MEAN,
    std=STD,
    norm_eps=1e-5,
    activation="silu",
    resize_is_ours=True,
    notes=("the attention pooling after the final norm is left out",),
)
_DINOV3 = replace(
    DINOV3,
    name="hf_dinov3_vit",
    title="Hugging Face DINOv3 ViT",
    encoders={"model": under("dinov3_vit.", "backbone.", "")},
    default=("model",),
    matches=_matches_dinov3,
    marker="embeddings.patch_embeddings.weight",
    leftovers=(r"embeddings\.mask_token", r"/classifier\..*"),
    renames=(
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
        (r"^(model\.)?layer\.", "blocks."),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"\.attention\.", ".attn."),
        (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
        (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
        (r"\.mlp\.down_proj\.", ".mlp.fc2."),
    ),
    convert=_dinov3,
    notes=(),
)
FAMILIES = (_CLIP, _NAFLEX, _SIGLIP, _AIM, _DINOV3, _BEIT, _REGISTERS, _DINOV2, _MAE, _VIT)
