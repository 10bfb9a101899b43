"""The model's own classifier: its accuracy has a known answer where it always names one class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fdlab.checkpoints.open import open_model
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.experiments.others import as_section, write_others
from fdlab.report.report import Report
from fdlab.study.evaluate import classifier, features


def file_that_always_says(path: Path, answer: int, classes: int = 10) -> str:
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=1, num_heads=3, num_classes=classes)
    if classes:
        torch.nn.init.zeros_(module.head.weight)
        module.head.bias.data = torch.nn.functional.one_hot(torch.tensor(answer), classes).float()
    torch.save(module.state_dict(), path)
    return str(path)


def test_a_constant_classifier_is_right_as_often_as_its_class_comes(tmp_path: Path) -> None:
    images = open_data("digits#test[:70]")
    shares = [float((images.labels() == answer).mean()) for answer in (3, 7)]
    assert shares[0] != shares[1]
    models = [f"{answer}={file_that_always_says(tmp_path / f'{answer}.pth', answer)}" for answer in (3, 7)]
    whole, _ = classifier(models, "digits#test[:70]", batch=32)
    table = whole[whole["metric"] == "accuracy"]
    assert table["value"].tolist() == pytest.approx(shares)
    assert set(table["n"]) == {70}
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_models_without_classifier_and_labels_beyond_it_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="do not fit the model's 4 classes") as caught:
        classifier([file_that_always_says(tmp_path / "few.pth", 1, classes=4)], "digits#test[:40]")
    assert caught.value.code == 3
    with pytest.raises(FdlabError, match="holds no classifier"):
        classifier([file_that_always_says(tmp_path / "none.pth", 0, classes=0)], "digits#test[:40]")


def test_patches_are_pooled_without_the_prefix_tokens() -> None:
    encoder, images = open_model("random:test_vit"), open_data("digits#test[:5]")
    assert encoder.info.prefix_tokens == 1
    pixels, answers = images.stack(range(5), 160)
    with torch.no_grad():
        tokens = encoder.tokens(encoder.normalise(pixels))
    for pool, expected in (("patches", tokens[:, 1:].mean(1)), ("class", tokens[:, 0])):
        got, labels = features(encoder, images, pool=pool, batch=2)
        assert torch.allclose(got, expected, atol=1e-5)
        assert labels.tolist() == answers.tolist()


@pytest.mark.slow
def test_models_that_others_trained_are_a_section_with_their_own_accuracy(tmp_path: Path) -> None:
    files = {name: file_that_always_says(tmp_path / f"{name}.pth", answer) for name, answer in (("a", 3), ("b", 7))}
    cohort = tmp_path / "cohort.toml"
    cohort.write_text("".join(f'[[model]]\nlabel = "{name}"\nsource = "{file}"\n' for name, file in files.items()))
    made = write_others(tmp_path / "others", cohort, "digits#test[:70]", "the command")
    labels = open_data("digits#test[:70]").labels()
    said = made["facts"]["notes"][0]
    assert f"on 70 images: a {100 * (labels == 3).mean():.1f} % (" in said
    section = as_section(Report(made["table"], made["facts"]), "others")
    assert said in section
    assert "others/figures/attention_distance.png" in section
    assert not (tmp_path / "others" / "records").exists()
    assert {"accuracy", "distance", "knn"} <= set(made["table"]["metric"])
