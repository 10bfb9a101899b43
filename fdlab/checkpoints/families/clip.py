"""CLIP's image tower: OpenAI's files (archive and state dict) and open_clip's."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import (
    EMA,
    HALF,
    MODEL,
    PATCHES,
    Family,
    Network,
    Place,
    all_of,
    is_plain_vit,
    under,
)

FINAL = "the final norm is applied to all tokens (CLIP itself reads the class token only)"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_RENAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
# Beside ``visual.``: the text tower and scalars. Inside: the projection into the common space.
_LEFTOVERS = (
    r"/(transformer|token_embedding|ln_final|text_projection)\..*",
    r"/(positional_embedding|text_projection|logit_scale|logit_bias|attn_mask)",
    r"/(input_resolution|context_length|vocab_size)",
    r"/text\..*",
    r"proj",
)


def _is_clip(network: Network) -> bool:
    return "class_embedding" in network and "transformer.resblocks.0.attn.in_proj_weight" in network


def _matches_openai(network: Network, contents: Contents) -> bool:
    return _is_clip(network) and {"/input_resolution", "/context_length"} <= set(network)


def _matches_quick(network: Network, contents: Contents) -> bool:
    name = contents.value("model_name") or ""
    return _is_clip(network) and bool(re.search(r"-quickgelu$", name))


def _has_norm_before(network: Network) -> bool:
    return "norm_pre.weight" in network


def _is_pooled(network: Network, contents: Contents) -> bool:
    plain = {PATCHES, "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "norm.weight"}
    return {*plain, "attn_pool.latent"} <= set(network) and "cls_token" not in network


def add_axes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class embedding (C) and the table (N, C) as (1, 1, C) and (1, N, C)."""
    moved = dict(state)
    for key, axes in (("cls_token", 3), ("pos_embed", 3)):
        if key in moved:
            while moved[key].ndim < axes:
                moved[key] = moved[key][None]
    return moved


OPEN_CLIP = Family(
    name="open_clip",
    title="open_clip, image tower",
    kind="image-text",
    encoders={"visual": under("visual.")},
    default=("visual",),
    matches=all_of(_is_clip),
    marker="conv1.weight",
    leftovers=_LEFTOVERS,
    renames=_RENAMES,
    convert=add_axes,
    heads={768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    mean=MEAN,
    std=STD,
    norm_eps=1e-5,
    resize_is_ours=True,
    notes=(FINAL,),
    unknown_activation=(
        "without open_clip_config.json QuickGELU cannot be seen: give activation=quick_gelu where it holds"
    ),
    timm_names={
        (768, 12, 32): "vit_base_patch32_clip_224.laion2b",
        (768, 12, 16): "vit_base_patch16_clip_224.laion2b",
        (1024, 24, 14): "vit_large_patch14_clip_224.laion2b",
        (1280, 32, 14): "vit_huge_patch14_clip_224.laion2b",
    },
)
QUICK = replace(
    OPEN_CLIP,
    title="open_clip, image tower, QuickGELU by the model's name",
    matches=_matches_quick,
    heads={768: 12, 1024: 16, 1280: 16},
    activation="quick_gelu",
    unknown_activation="",
    timm_names={},
)
OPENAI = replace(
    QUICK,
    name="openai_clip",
    title="OpenAI CLIP, image tower",
    matches=_matches_openai,
    heads={768: 12, 1024: 16},
    timm_names={
        (768, 12, 32): "vit_base_patch32_clip_quickgelu_224.openai",
        (768, 12, 16): "vit_base_patch16_clip_quickgelu_224.openai",
        (1024, 24, 14): "vit_large_patch14_clip_quickgelu_224.openai",
    },
)
TIMM = Family(
    name="timm_vit",
    title="CLIP's image tower under timm's keys (its norm before the blocks tells it)",
    kind="image-text",
    encoders={"ema": EMA, "model": tuple(Place(place.table, ("visual.trunk.", "")) for place in MODEL)},
    default=("ema", "model"),
    matches=all_of(is_plain_vit, _has_norm_before),
    heads={384: 6, 512: 8, 640: 10, 768: 12, 896: 14, 1024: 16, 1280: 16, 1408: 16, 1664: 16},
    heads_whose="timm's CLIP models",
    mean=MEAN,
    std=STD,
    norm_eps=1e-5,
    resize="antialias",
    whose="as CLIP's code and timm have them",
    unknown_activation="QuickGELU cannot be seen in a bare file: give activation=quick_gelu where it holds",
)
TIMM_SIGLIP = replace(
    TIMM,
    title="a plain ViT under timm's keys with attention pooling and no class token, as SigLIP has",
    kind="unknown",
    matches=_is_pooled,
    leftovers=(r"attn_pool\..*",),
    mean=HALF,
    std=HALF,
    norm_eps=1e-6,
    whose="as timm's SigLIP has them",
    unknown_activation="some SigLIP 2 models have tanh GELU: give activation=gelu_tanh where it holds",
)
FAMILIES = (OPENAI, QUICK, OPEN_CLIP, TIMM, TIMM_SIGLIP)
