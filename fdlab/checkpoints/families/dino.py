"""DINO and iBOT: flat backbone files, and full training files with a student and a teacher; and plain ViTs of timm."""

from __future__ import annotations

import re
from dataclasses import replace

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import MODEL, PATCHES, Family, Network, Place, is_plain_vit

# Early full files have no ``backbone.``; ``module.`` is gone by the time places are looked up.
_PREFIXES = ("backbone.", "")
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}


def _matches_dino(network: Network, contents: Contents) -> bool:
    return is_plain_vit(network) and "norm.weight" in network and "blocks.0.ls1.gamma" not in network


def _matches_dino_training(network: Network, contents: Contents) -> bool:
    headed = any(re.match(r"/?head\.(mlp|last_layer)", key) for key in network)
    return _matches_dino(network, contents) and (headed or bool({"teacher", "student"} & set(contents.tables)))


def _matches_ibot(network: Network, contents: Contents) -> bool:
    return "ibot_loss" in contents.top and is_plain_vit(network)


def _matches_timm(network: Network, contents: Contents) -> bool:
    return "pos_embed" in network and {PATCHES, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"} <= set(network)


DINO = Family(
    name="dino",
    title="DINO (plain ViT with a learned table; iBOT and DeiT without a head look the same)",
    kind="unknown",
    encoders={
        "teacher": (Place("teacher", _PREFIXES),),
        "student": (Place("student", _PREFIXES),),
        "backbone": tuple(Place(place.table, _PREFIXES) for place in MODEL),
    },
    default=("teacher", "backbone", "student"),
    matches=_matches_dino,
    exact=True,
    leftovers=(r"/?head\.(mlp|last_layer|last_layer2)\..*", r"/?head\.last_layer2?", r"masked_embed", r"mask_token"),
    renames=((r"\.gamma_([12])$", r".ls\1.gamma"),),
    heads=_HEADS,
    arches={f"{kind}_{size}": 64 for kind in ("vit", "deit") for size in ("tiny", "small", "base", "large")},
    resize="offset",
    timm_names={
        (384, 12, 16): "vit_small_patch16_224.dino",
        (384, 12, 8): "vit_small_patch8_224.dino",
        (768, 12, 16): "vit_base_patch16_224.dino",
        (768, 12, 8): "vit_base_patch8_224.dino",
    },
)
DINO_TRAINING = replace(DINO, kind="contrastive", matches=_matches_dino_training, exact=False)
IBOT = replace(
    DINO,
    name="ibot",
    title="iBOT (plain ViT, full training file)",
    kind="contrastive",
    matches=_matches_ibot,
    timm_names={},
    exact=False,
)
TIMM_VIT = Family(
    name="timm_vit",
    title="a plain ViT under timm's keys, without its architecture's name",
    kind="unknown",
    encoders={"ema": (Place("state_dict_ema"), Place("model_ema")), "model": MODEL},
    default=("ema", "model"),
    matches=_matches_timm,
    heads=_HEADS,
    heads_whose="most plain ViTs",
    resize="antialias",
    whose="as timm has them for most plain ViTs",
)
FAMILIES = (IBOT, DINO_TRAINING, DINO, TIMM_VIT)
