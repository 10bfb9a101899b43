"""What a file's authors trained it on is said beside its family, and every kind has a colour in reports."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from fdlab.checkpoints.builders.timm_name import kind_of_name
from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.recognise import FAMILIES
from fdlab.encoders.encoder import Kind
from fdlab.tasks.base import TASKS, find_task

KINDS = set(get_args(Kind))


def test_every_family_of_files_and_every_task_says_its_kind():
    assert {family.kind for family in FAMILIES} | {"random"} == KINDS
    assert {find_task(name).family for name in TASKS} <= KINDS - {"unknown"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit_huge_patch14_gap_224.in1k_ijepa", "mim"),
        ("eva02_base_patch14_224.mim_in22k", "mim"),
        ("eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", "mim"),
        ("beitv2_base_patch16_224.in1k_ft_in22k", "mim"),
        ("vit_base_patch16_224.mae", "mim"),
        ("eva02_base_patch16_clip_224.merged2b", "image-text"),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "image-text"),
        ("vit_base_patch14_dinov2.lvd142m", "contrastive"),
        ("deit_base_patch16_224.fb_in1k", "supervised"),
        ("vit_base_patch16_224.augreg_in21k", "supervised"),
        ("vit_base_patch16_224", "unknown"),
        ("vit_intern300m_patch14_448.ogvl_2pt5", "unknown"),
    ],
)
def test_the_words_of_a_timm_name_tell_its_kind(name, kind):
    assert kind_of_name(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dino_full", "contrastive"),
        ("dino_backbone", "unknown"),  # plain ViT keys alone are those of several methods
        ("mae_full", "mim"),  # its decoder
        ("mae_encoder", "mim"),  # its frozen table
        ("mae_finetuned", "unknown"),  # a supervised model in MAE's fine-tuning code is the same file
        ("simmim_vit_pretrain", "mim"),  # mask token and decoder
        ("simmim_swin_pretrain", "mim"),
        ("beit_pretrained", "mim"),
        ("beitv2_pretrained", "mim"),
        ("beitv2_finetuned", "unknown"),
        ("data2vec_pretrain", "mim"),
        ("eva02_pretrained", "mim"),
        ("eva02_finetuned", "unknown"),
        ("mocov3_full", "contrastive"),
        ("esvit_swin", "contrastive"),
        ("deit_distilled", "supervised"),  # its second token
        ("deit_base_legacy", "unknown"),  # any plain ViT with a classifier
        ("timm_clip_quickgelu", "image-text"),  # its norm before the blocks is CLIP's
        ("swin_v1_classifier", "unknown"),  # a fine-tuned SimMIM Swin as well
        ("hf_beit", "mim"),
        ("hf_vit", "unknown"),
        ("hf_deit_with_teacher", "unknown"),
        ("fd_vit_finetuned", "unknown"),  # SimMIM's looks the same
        ("clip_openai", "image-text"),
        ("fd_swin_v2_distilled", "distilled"),
    ],
)
def test_a_file_is_of_its_familys_kind_and_its_random_start_is_not(shared, name, kind):
    folder = shared(f"fixtures/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    trained = open_model(folder / meta["open_file"], **meta["open_with"])
    assert trained.info.kind == kind
    assert open_model(f"random:{folder / meta['open_file']}", **meta["open_with"]).info.kind == "random"
