"""DeiT, DeiT distilled and DeiT III: ``{model: ...}`` classifiers."""

from __future__ import annotations

from dataclasses import replace

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.families.family import EMA, MODEL, Family, Network, is_plain_vit, is_square


def _matches_distilled(network: Network, contents: Contents) -> bool:
    return "dist_token" in network and is_plain_vit(network)


def _matches_deit3(network: Network, contents: Contents) -> bool:
    return "blocks.0.gamma_1" in network and is_plain_vit(network) and is_square(network["pos_embed"].shape[1])


def _matches_deit(network: Network, contents: Contents) -> bool:
    # A bias-free or layer-scaled classifier is another code's.
    own = "norm.weight" in network and "blocks.0.attn.qkv.bias" in network and "blocks.0.ls1.gamma" not in network
    return is_plain_vit(network) and "head.weight" in network and own and network["head.weight"].ndim == 2


DEIT = Family(
    name="deit",
    title="DeiT (plain ViT with a classifier)",
    kind="unknown",  # any plain ViT that was fine-tuned under timm's keys looks the same
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=_matches_deit,
    exact=True,
    heads={192: 3, 384: 6, 512: 8, 768: 12, 1024: 16},
    arches={
        f"deit_{size}{kind}_patch16_{pixels}": 64
        for size in ("tiny", "small", "base")
        for kind in ("", "_distilled")
        for pixels in (224, 384)
    },
    timm_names={
        (192, 12, 16): "deit_tiny_patch16_224.fb_in1k",
        (384, 12, 16): "deit_small_patch16_224.fb_in1k",
        (768, 12, 16): "deit_base_patch16_224.fb_in1k",
    },
)
DISTILLED = replace(
    DEIT,
    name="deit_distilled",
    kind="supervised",
    title="DeiT distilled (two prefix tokens, two heads)",
    matches=_matches_distilled,
    exact=False,
    timm_names={size: name.replace("_patch16", "_distilled_patch16") for size, name in DEIT.timm_names.items()},
)
DEIT3 = replace(
    DEIT,
    name="deit3",
    kind="supervised",
    title="DeiT III (layer scale, no position for the class token)",
    matches=_matches_deit3,
    exact=False,
    renames=((r"\.gamma_([12])$", r".ls\1.gamma"),),
    heads={**DEIT.heads, 1280: 16},
    arches={},
    timm_names={
        (384, 12, 16): "deit3_small_patch16_224.fb_in1k",
        (512, 12, 16): "deit3_medium_patch16_224.fb_in1k",
        (768, 12, 16): "deit3_base_patch16_224.fb_in1k",
        (1024, 24, 16): "deit3_large_patch16_224.fb_in1k",
        (1280, 32, 14): "deit3_huge_patch14_224.fb_in1k",
    },
)
FAMILIES = (DISTILLED, DEIT3, DEIT)
