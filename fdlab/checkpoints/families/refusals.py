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
        r"\.lora_(A|B|embedding_[AB]|magnitude)",
        "is a LoRA adapter, or a model with one that is not merged.",
        "Its low-rank matrices are to be added to a base model's weights.",
        "With peft: PeftModel.from_pretrained(base, FOLDER).merge_and_unload().save_pretrained(NEW), then give NEW.",
    ),
    Refusal(
        r"_packed_params|\.(SCB|weight_format|absmax|qweight|qzeros|weight_scale|weight_scale_inv|scale_weight)$"
        r"|\.quant_state\.|\.weight\.(absmax|quant_map)",
        "is quantised.",
        "Its weights are codes in few bits with scales, not numbers of a network that fdlab runs.",
        "Give the weights as they were before quantisation.",
    ),
    Refusal(
        r"(^|\.)encoder\.layers\.\d+\.ls1$",
        "is an InternViT of Hugging Face's remote code.",
        "Its code is not in transformers, and fdlab runs no remote code.",
        "Open it through timm: timm:vit_intern300m_patch14_448.ogvl_dist.",
    ),
    Refusal(
        r"(^|\.)(cls_attn_blocks\.|blocks\.\d+\.(local_mp\.|attn\.temperature$))",
        "is an XCiT.",
        "Its attention is over channels, not over tokens, so that there are no maps between patches.",
        "Open it through timm for its features: timm:xcit_small_12_p16_224.",
    ),
    Refusal(
        r"(^|\.)blocks_token_only\.",
        "is a CaiT.",
        "It changes its attention maps after the softmax (talking heads).",
        "Open it through timm: timm:cait_s24_224.",
    ),
    Refusal(
        r"(^|\.)vision_model\.encoder\.layers\.\d+\.self_attn\.(qkv|projection)\.",
        "is a BLIP.",
        "No reader for its image tower is here.",
        "Use a CLIP or SigLIP image tower.",
    ),
    Refusal(
        r"(^|\.)(pos_embed_(win|window|spatial|temporal)$|encoder\.stages\.\d+\.layers\.\d+\.attn\.)",
        "is a Hiera.",
        "It pools its queries between stages.",
        "Open it through timm: timm:hiera_tiny_224.mae.",
    ),
    Refusal(
        r"(^|\.)(stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv|depthwise_conv)|encoder\.stages\.\d+\.layers\.\d+\.dwconv)\.",
        "is a ConvNeXt.",
        "It is no vision transformer, and its file does not say which one it is.",
        "Open it through timm: timm:NAME.",
    ),
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


_PATCHES = re.compile(r"patch_embed|conv1\.weight$")


def refuse_known(path: Path, contents: Contents) -> None:
    """Raises the refusal whose pattern a key has; the frozen teacher of a distillation file does not count."""
    for table in contents.tables.values():
        few = next((key for key, tensor in table.items() if str(tensor.dtype).startswith("torch.float8")), None)
        if few is not None:
            why = f"Key {few} is in 8 bits; its scale is elsewhere."
            raise refusal(path, "is quantised.", why, "Give the weights as they were before quantisation.")
        moving = next((key for key, tensor in table.items() if tensor.ndim == 5 and _PATCHES.search(key)), None)
        if moving is not None:
            why = f"Key {moving} is a convolution over time as well."
            raise refusal(path, "is a video model.", why, "Use an image model.")
    keys = [key for table in contents.tables.values() for key in table if not key.startswith("feature_model.")]
    for entry in REFUSALS:
        found = next((key for key in keys if re.search(entry.pattern, key)), None)
        if found is not None:
            raise refusal(path, entry.what, f"Key {found}. {entry.why}", entry.fix)
