"""Folders for transformers: the authors' own files come back key by key; the library itself runs them where it is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fdlab.checkpoints.open import open_model
from fdlab.errors import FdlabError
from fdlab.study.classifier import load_classifier
from fdlab.study.exports import hf_folder
from fdlab.study.exports.export import export
from fdlab.study.exports.hf_classes import fitting
from tests.study.exports.making import encoder, tuned

# Folders that transformers itself wrote -> the class that is written again.
AUTHORS = {
    "hf_vit": "ViTModel",
    "hf_beit": "BeitModel",
    "hf_dinov2": "Dinov2Model",
    "hf_swin": "SwinModel",
    "hf_swinv2": "Swinv2Model",
}


@pytest.mark.parametrize("name", AUTHORS)
def test_files_of_transformers_come_back_as_they_were(shared, tmp_path: Path, name: str) -> None:
    folder = shared(f"fixtures/{name}")
    export(open_model(folder), out=tmp_path / "out", to="hf")
    made, config = load_file(tmp_path / "out" / "model.safetensors"), json.loads((folder / "config.json").read_text())
    again = json.loads((tmp_path / "out" / "config.json").read_text())
    authors = {}
    for file in folder.glob("*.safetensors"):
        if file.name != "expected.safetensors":
            authors |= load_file(file)
    made.pop("embeddings.mask_token", None)  # a part of the pre-training; zeros here
    assert made
    for key, tensor in made.items():
        found = next((authors[known] for known in (key, f"{config['model_type']}.{key}") if known in authors), None)
        assert found is not None, key
        assert torch.equal(found, tensor), key
    assert again["architectures"] == [AUTHORS[name]]
    own = set(again) - {"architectures", "drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob"}
    # A pre-training's window of 0 means the window itself; masks, starts and the norm beside a decoder are of it too.
    own -= {"pretrained_window_sizes", "use_mask_token", "layer_scale_init_value", "use_mean_pooling"}
    for key in own & set(config):
        assert again[key] == config[key], key
    assert again["layer_norm_eps"] == config["layer_norm_eps"]


@pytest.mark.parametrize(
    ("kind", "norm", "final", "name"),
    [
        ("vit", "standardise", True, "Dinov2ForImageClassification"),
        ("vit with layer scale", "none", True, "Dinov2ForImageClassification"),
        ("vit without class token", "batchnorm", True, "IJepaForImageClassification"),
        ("vit", "layernorm", False, "BeitForImageClassification"),
        ("beit, a block", "layernorm", False, "BeitForImageClassification"),
        ("beit, shared", "layernorm", False, "BeitForImageClassification"),
        ("swin", "standardise", True, "Swinv2ForImageClassification"),
    ],
)
def test_classifiers_have_their_class_and_their_names(
    tmp_path: Path, kind: str, norm: str, final: bool, name: str
) -> None:
    subject = tuned(kind, norm, final)
    written = hf_folder.write(subject, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["id2label"] == {"0": "ant", "1": "bee", "2": "cat"}
    assert written.difference is not None
    assert written.difference < 1e-5
    if find_spec("transformers") is None:
        assert "not by transformers" in written.notes[0]
        return
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == name
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        said, wanted = model(pixel_values=subject.encoder.normalise(images)).logits, subject.expected(images)
    assert float((said - wanted).abs().max() / wanted.abs().max()) < 1e-5
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(
        torch.zeros(3, 40, 60, dtype=torch.uint8), return_tensors="pt"
    )
    assert pixels["pixel_values"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("kind", "norm", "final", "why"),
    [
        ("relative, shared", "none", True, "VisionTransformerRelPos"),
        ("beit, shared", "standardise", True, "no norm after the mean"),
        ("vit", "layernorm", True, "other norms"),
    ],
)
def test_what_no_class_computes_is_said(tmp_path: Path, kind: str, norm: str, final: bool, why: str) -> None:
    with pytest.raises(FdlabError, match="No class of transformers") as caught:
        hf_folder.write(tuned(kind, norm, final), tmp_path)
    assert why in caught.value.why
    assert caught.value.code == 2


def test_fdlab_opens_it_with_the_names_of_its_classes(tmp_path: Path) -> None:
    subject = tuned("beit, a block", "layernorm", False)
    hf_folder.write(subject, tmp_path)
    again = load_classifier(tmp_path)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    assert (again.classes, again.named) == (("ant", "bee", "cat"), True)
    assert torch.allclose(again.logits(images), subject.expected(images), atol=1e-4, rtol=1e-4)


def test_the_mean_is_the_second_half_of_dinov2s_input() -> None:
    subject = tuned("vit", "none", True)
    assert subject.classifier is not None
    assert subject.classifier.pooled is not None
    weight = fitting(subject).state["classifier.weight"]
    assert torch.equal(weight[:, 24:], subject.classifier.pooled.linear.weight)
    assert not weight[:, :24].any()


def test_pictures_are_prepared_as_the_model_was_trained(tmp_path: Path) -> None:
    export(encoder("vit"), out=tmp_path / "out", to="hf")
    said = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert said["size"] == {"shortest_edge": 18}
    assert said["crop_size"] == {"height": 16, "width": 16}
    assert (said["resample"], said["image_mean"]) == (2, [0.485, 0.456, 0.406])
