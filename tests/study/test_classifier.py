"""A run of fine-tuning as a classifier: its answers are those of the training, its names those of the folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.study.classifier import load_classifier
from fdlab.study.training import finetune, pretrain

SMALL = {
    "run.steps": 30,
    "run.batch": 12,
    "classify.design.patch_size": 8,
    "classify.design.width": 32,
    "classify.design.depth": 2,
    "classify.design.heads": 2,
    "data.validation": 0,
    "data.per_class": 0,
}


def colours(root: Path, count: int = 12) -> Path:
    """Three classes of images that their mean colour tells apart, in folders by name."""
    draw = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("green", 1), ("red", 0)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 60, (24, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 180
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("classifier")
    images = colours(folder / "colours")
    run = finetune("digits/finetune", data=images, out=folder / "run", overrides={**SMALL, "run.steps": 60})
    return run, images


def test_a_run_names_the_folders_of_its_training(tuned: tuple[Path, Path]) -> None:
    run, images = tuned
    classifier = load_classifier(run)
    assert classifier.classes == ("blue", "green", "red") and classifier.named
    answers = classifier.predict([images / "red" / "0.png", images / "blue" / "1.png"], top=2)
    assert [guesses[0].name for guesses in answers.values()] == ["red", "blue"]
    assert all(len(guesses) == 2 and guesses[0].share > guesses[1].share for guesses in answers.values())
    whole = classifier.predict(images)
    assert len(whole) == 36 and all(Path(file).parent.name == guesses[0].name for file, guesses in whole.items())


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("norm", ["standardise", "layernorm", "batchnorm", "none"])
def test_its_accuracy_is_the_one_that_the_training_found(tmp_path: Path, norm: str, final_norm: bool) -> None:
    settings = {**SMALL, "run.steps": 6, "classify.head_norm": norm, "classify.final_norm": final_norm}
    settings |= {"data.per_class": 4, "classify.head_init": 0.5}
    run = finetune(data="digits#train", test="digits#test[:100]", out=tmp_path / "run", overrides=settings)

    facts = json.loads((run / "run.json").read_text())
    logits, labels = [], []
    for scores, answers, _ in load_classifier(run).scores(open_data("digits#test[:100]")):
        logits.append(scores)
        labels.append(answers)
    assert int((torch.cat(logits).argmax(1) == torch.cat(labels)).sum()) == facts["correct"]


def test_open_images_of_pillow_are_named_as_their_files_are(tuned: tuple[Path, Path]) -> None:
    run, images = tuned
    classifier, files = load_classifier(run), [images / "red" / "0.png", images / "blue" / "1.png"]
    wanted = list(classifier.predict(files).values())
    opened = [Image.open(file) for file in files]
    answers = classifier.predict(opened)
    assert list(answers) == ["image 1", "image 2"] and list(answers.values()) == wanted
    assert classifier.predict(opened[1])["image 1"] == classifier.predict(files[1])[str(files[1])]
    mixed = classifier.predict([files[0], opened[1].convert("CMYK")])
    assert list(mixed) == [str(files[0]), "image 2"] and mixed["image 2"][0].name == "blue"
    with pytest.raises(FdlabError, match="image 1 is ndarray") as caught:
        classifier.predict(np.zeros((8, 8, 3)))  # type: ignore[arg-type]
    assert caught.value.code == 2 and "logits()" in caught.value.fix


def test_what_is_no_classifier_is_said(tmp_path: Path, tuned: tuple[Path, Path]) -> None:
    teacher = pretrain("digits/masked", out=tmp_path / "mim", overrides={"run.steps": 2})
    with pytest.raises(FdlabError, match="holds no classifier") as caught:
        load_classifier(teacher)
    assert "fdlab finetune" in caught.value.fix
    with pytest.raises(FdlabError, match="There is no image at"):
        load_classifier(tuned[0]).predict("nowhere.png")


def test_the_command_names_pictures(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    run, images = tuned
    red, blue = images / "red" / "0.png", images / "blue" / "1.png"
    words = ["predict", str(run), str(red), str(blue), "--top", "2", "--csv", str(tmp_path / "said.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith(f"{red}: red ") and lines[1].startswith(f"{blue}: blue ")
    written = pd.read_csv(tmp_path / "said.csv")
    assert written["class"].tolist()[::2] == ["red", "blue"] and len(written) == 4
    listed = json.loads(CliRunner().invoke(app, [*words[:4], "--json"]).stdout)
    assert [guesses[0]["name"] for guesses in listed.values()] == ["red", "blue"]


def test_pictures_that_cannot_be_read_are_named(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    run, images = tuned
    classifier = load_classifier(run)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes((images / "red" / f"{number}.png").read_bytes())
    (tmp_path / "cut.png").write_bytes((images / "red" / "3.png").read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"cut.png was left out"):
        assert len(classifier.predict(tmp_path)) == 3
    with pytest.raises(FdlabError, match=r"cut.png cannot be read") as caught:
        classifier.predict([tmp_path / "0.png", tmp_path / "cut.png", tmp_path / "1.png"])
    assert caught.value.code == 3
