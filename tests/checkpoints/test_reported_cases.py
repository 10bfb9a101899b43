"""Situations that people reported: each is made anew by its own script, and opens exactly or is refused by name."""

from __future__ import annotations

import importlib.util
import runpy
import shutil

import pytest
import torch

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError

# {case: (what to open, what to give)}
OPENS = {
    "backbone_and_classifier": ("model.pth", {}),
    "dinov3_unmasked_k_bias": ("dinov3.pth", {"image_size": 64}),
    "hf5_state_dict_vit": ("model.pth", {"heads": 4}),
    "hf_deit_one_head": ("deit", {}),
    "hf_dinov3": ("dinov3", {}),
    "hf_siglip": ("siglip", {}),
    "hf_swin": ("swin", {}),
    "lightly_dino": ("model.pth", {}),
    "lightning_model_prefix": ("model.pth", {}),
    "mae_linear_probe": ("model.pth", {}),
    "table_model_state_dict": ("model.pth", {}),
    "timm_clip_bare": ("clip_finetuned.pth", {}),
}
NEEDS_TRANSFORMERS = ("hf5_", "hf_")


@pytest.fixture
def made(tmp_path, shared, monkeypatch):
    """``made(case)`` -> the folder in which the case's script has written its input."""

    def make(name):
        if name.startswith(NEEDS_TRANSFORMERS) and importlib.util.find_spec("transformers") is None:
            pytest.skip("transformers is not installed")
        shutil.copytree(shared(f"cases/checkpoints_and_images/{name}"), tmp_path / name)
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(tmp_path / name / "make.py"), run_name="__main__")
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", OPENS)
def test_a_reported_file_opens_exactly(made, name):
    file, given = OPENS[name]
    folder = made(name)
    encoder, truth = open_model(folder / file, **given), torch.load(folder / "truth.pt")
    with torch.no_grad():
        error = (encoder.tokens(truth["x"]) - truth["tokens"]).abs().max() / truth["tokens"].abs().max()
    assert float(error) < 1e-5


def test_the_averaged_network_of_a_dinov3_training_is_taken(made):
    path = made("dinov3_training_to_torch") / "model.pth"
    info = open_model(path).info
    assert info.family == "dinov3" and info.taken == "ema" and info.others == ("student",)
    assert open_model(f"{path}@student").info.taken == "student"


def test_clip_under_timms_keys_is_image_text(made):
    info = open_model(made("timm_clip_bare") / "clip_finetuned.pth").info
    assert info.kind in ("image-text", "unknown") and info.mean == pytest.approx((0.481, 0.458, 0.408), abs=1e-3)
    assert info.norm_eps == 1e-5


def test_a_part_of_jaxs_weights_is_named(made):
    """The case holds three arrays of a network and no block."""
    with pytest.raises(FdlabError, match=r"JAX, \.npz"):
        open_model(made("jax_npz") / "B_16.npz")


def test_weights_that_are_not_finite_are_refused(made):
    with pytest.raises(FdlabError, match="not finite") as caught:
        open_model(made("nan_weights_attention") / "model.pth")
    assert caught.value.code == 3
