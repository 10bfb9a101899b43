"""A published file is drawn in the colour of what it was trained on."""

from __future__ import annotations

import pytest

from fdlab.checkpoints.recognise import FAMILIES
from fdlab.study.diagnosis import SHOWN, shown_family
from fdlab.tasks.base import TASKS, find_task

OWN = {"contrastive", "mim", "distilled", "supervised"}


@pytest.mark.parametrize(
    ("family", "source", "shown"),
    [
        ("torchvision", "vit_b_16-c867db91.pth", "supervised"),
        ("openai_clip", "ViT-B-16.pt", "image-text"),
        ("dinov2", "dinov2_vitb14_pretrain.pth", "contrastive"),
        ("simmim_vit", "x.pth", "mim"),
        ("fd_swin_v2_distilled", "x.pth", "distilled"),
        ("timm", "timm:vit_huge_patch14_gap_224.in1k_ijepa", "mim"),
        ("timm", "timm:deit_base_patch16_224.fb_in1k", "supervised"),
        ("timm", "timm:vit_base_patch16_224", "other"),
        ("torchvision", "random:x.pth", "random"),
        ("beit_finetuned", "x.pth", "other"),
    ],
)
def test_the_family_shown(family, source, shown):
    assert shown_family("model", family, source) == shown


def test_every_name_that_has_a_colour_is_a_family_of_files_or_of_a_task():
    assert set(SHOWN) <= {family.name for family in FAMILIES} | OWN
    assert {find_task(name).family for name in TASKS} == OWN
