"""torchvision's own ViTs (``vit_b_16`` and the like): a flat state dict, or ``{model: ...}`` of its training script."""

from __future__ import annotations

from dataclasses import replace

from fdlab.checkpoints.families.family import EMA, MODEL, Family, Network, all_of

_BLOCK = r"^encoder\.layers\.encoder_layer_(\d+)\."
_RENAMES = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (_BLOCK + r"ln_([12])\.", r"blocks.\1.norm\2."),
    (_BLOCK + r"self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (_BLOCK + r"self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    # Files of before torchvision 0.14, the published ones among them, say linear_1 and linear_2.
    (_BLOCK + r"mlp\.(0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"mlp\.(3|linear_2)\.", r"blocks.\1.mlp.fc2."),
    (r"^heads\.((head|\d+)\.)?(weight|bias)$", r"head.\3"),  # the last layer, or what fine-tuning put in its place
)
_SWAG = (
    "images by bilinear resizing, as the weights IMAGENET1K_V1 state (SWAG's weights look the same; theirs is bicubic)"
)


def _is_torchvision(network: Network) -> bool:
    return any(key.startswith("encoder.layers.encoder_layer_0.self_attention.") for key in network)


def _one_layer(network: Network) -> bool:
    """Whether the classifier is one linear layer; otherwise timm's class has no place for it."""
    return sum(key.startswith("heads.") and key.endswith("weight") for key in network) < 2


VIT = Family(
    name="torchvision",
    title="torchvision ViT",
    kind="unknown",  # torchvision's own weights are supervised; other trainings of its class look the same
    encoders={"model": MODEL, "ema": EMA},
    default=("model", "ema"),
    matches=all_of(_is_torchvision, _one_layer),
    marker="conv_proj.weight",
    leftovers=("n_averaged",),  # the counter of torch's AveragedModel
    renames=_RENAMES,
    heads={768: 12, 1024: 16, 1280: 16},
    arches={"vit_b_16": 64, "vit_b_32": 64, "vit_l_16": 64, "vit_l_32": 64, "vit_h_14": 80},
    interpolation="bilinear",
    resize="corners",
    notes=(_SWAG,),
)
DEEP_HEAD = replace(
    VIT,
    title="torchvision ViT with a classifier of several layers",
    matches=all_of(_is_torchvision),
    leftovers=("n_averaged", r"heads\..*"),
    notes=(_SWAG, "the classifier is left out: it has several layers"),
)
FAMILIES = (VIT, DEEP_HEAD)
