"""Layouts that are known and cannot be opened: each is refused by its name, with a way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fdlab.checkpoints.contents import Contents
from fdlab.checkpoints.unpickle import refusal


@dataclass(frozen=True)
class Refusal:
    """``pattern`` is searched in every key."""

    pattern: str
    what: str
    why: str
    fix: str


REFUSALS = (
    Refusal(
        r"_fsdp_wrapped_module|flat_param",
        "is one rank's share of an FSDP training.",
        "Its tensors are flat pieces of the network; one file alone holds no whole layer.",
        "DINOv2 writes the whole teacher beside it: eval/training_N/teacher_checkpoint.pth.",
    ),
    Refusal(
        r"blocks\.\d+\.(norm11|attn1|mlp1)\.",
        "is a DeiT III with parallel branches.",
        "Two attentions run side by side in each block; no builder for that is here.",
        "Use the plain DeiT III of the same size.",
    ),
    Refusal(
        r"patch_embed\.proj\.\d+\.",
        "is a ViT with a convolutional stem (vit_conv of MoCo v3).",
        "Its patch embedding is a stack of convolutions.",
        "Use vit_small or vit_base of MoCo v3.",
    ),
    Refusal(
        r"^conv_proj\.conv_",
        "is a torchvision ViT with a convolutional stem.",
        "Its patch embedding is a stack of convolutions.",
        "Use vit_b_16, vit_b_32, vit_l_16, vit_l_32 or vit_h_14.",
    ),
    Refusal(
        r"^visual\.(layer1\.|attnpool)",
        "is a CLIP with a ResNet image tower.",
        "It is no vision transformer.",
        "Use ViT-B-32, ViT-B-16 or ViT-L-14.",
    ),
    Refusal(
        r"^visual\.trunk\.",
        "is an open_clip model around a timm trunk.",
        "The trunk's architecture stands in open_clip's configuration only.",
        "Open the trunk through timm: timm:NAME.",
    ),
    Refusal(
        r"(^|\.)layer1\.0\.conv1\.weight$",
        "is a ResNet.",
        "It is no vision transformer.",
        "Use a ViT, BEiT, EVA or Swin.",
    ),
)


def refuse_known(path: Path, contents: Contents) -> None:
    """Raises the refusal whose pattern a key has; the frozen teacher of a distillation file does not count."""
    keys = [key for table in contents.tables.values() for key in table if not key.startswith("feature_model.")]
    for entry in REFUSALS:
        found = next((key for key in keys if re.search(entry.pattern, key)), None)
        if found is not None:
            raise refusal(path, entry.what, f"Key {found}. {entry.why}", entry.fix)
