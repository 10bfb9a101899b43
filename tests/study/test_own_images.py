"""A folder of photographs in classes and a model: what a training does when nothing else is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.errors import FdlabError
from fdlab.study.classifier import load_classifier
from fdlab.study.training import distill, finetune, plan, pretrain

NAMES = ("blue", "green", "red")


def pictures(root: Path, count: int, start: int = 0) -> Path:
    """``count`` images a class, of other sizes and with noise; the mean colour tells the classes apart."""
    draw = np.random.default_rng(start)
    for channel, name in zip((2, 1, 0), NAMES, strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 80, (40 + 4 * (number % 3), 40, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(root / name / f"{start}-{number}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain("digits/masked", out=tmp_path_factory.mktemp("start") / "mim", overrides={"run.steps": 2})


def test_sizes_split_and_length_follow_from_images_and_model(tmp_path: Path, model: Path) -> None:
    images = pictures(tmp_path / "mine", 20)
    planned = plan(None, task="classify", options={"data.source": images, "classify.model": model})
    recipe = planned.recipe
    assert planned.name == "folder/finetune"
    assert recipe.data.size == 24  # the model's own
    assert recipe.data.per_class == 0 and recipe.data.validation == 12  # all labels; a fifth validates
    assert recipe.run.batch == 8 and recipe.run.epochs == 25  # at least 150 steps of 48 images
    origins = {key: origin for key, _, origin in planned.describe()}
    assert origins["data.size"] == "your images and model" and origins["view.flip"] == "recipe folder/finetune"
    more = plan(None, task="classify", options={"data.source": images, "classify.model": model, "run.batch": 16})
    assert more.recipe.run.batch == 16 and more.recipe.run.epochs == 50
    assert more.recipe.optim.lr == pytest.approx(recipe.optim.lr * 2**0.5, rel=0.05)


def test_digits_keep_their_recipe_and_a_named_recipe_is_kept(model: Path) -> None:
    assert plan(None, task="classify", options={"data.source": "digits#train"}).name == "digits/finetune"
    assert plan(None, task="distill", options={"distill.teacher": model}).name == "digits/distill"
    named = plan("digits/finetune", task="classify", options={"data.source": "photos", "classify.model": model})
    assert named.recipe.data.per_class == 20


@pytest.mark.parametrize("held", ["test", "val"])
def test_a_folder_with_parts_trains_on_the_one_and_is_judged_on_the_other(
    tmp_path: Path, model: Path, held: str
) -> None:
    pictures(tmp_path / "mine" / "train", 8)
    pictures(tmp_path / "mine" / held, 4, start=1)
    given = {"data.source": tmp_path / "mine", "classify.model": model}
    recipe = plan(None, task="classify", options=given).recipe
    assert recipe.data.source.endswith("mine#train") and recipe.data.test.endswith("mine#test")
    assert recipe.data.validation == 0


def test_from_a_folder_to_a_classifier_that_names_a_picture(tmp_path: Path, model: Path) -> None:
    images = pictures(tmp_path / "mine", 16)
    words = ["finetune", str(model), "--data", str(images), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["validation_accuracy"] > 0.9  # ten images of colours that nothing else tells apart
    new = pictures(tmp_path / "new", 2, start=9)
    answers = load_classifier(tmp_path / "run").predict(new)
    assert sum(Path(file).parent.name == guesses[0].name for file, guesses in answers.items()) >= 5


def test_a_student_has_its_teachers_size(tmp_path: Path, model: Path) -> None:
    images = pictures(tmp_path / "mine", 6)
    run = distill(teacher=model, data=images, out=tmp_path / "run", overrides={"run.steps": 2})
    recipe = (run / "recipe.toml").read_text()
    assert "size = 24" in recipe and "flip = 0.5" in recipe


@pytest.mark.parametrize("task", ["contrastive", "masked"])
def test_a_model_from_scratch_has_the_images_own_size_in_whole_patches(tmp_path: Path, task: str) -> None:
    images = pictures(tmp_path / "mine", 16)  # short sides of 40 pixels
    recipe = plan(f"folder/{task}", options={"data.source": images}).recipe
    assert recipe.task == task and recipe.data.size == 40 and recipe.own.model.patch_size == 4
    assert recipe.run.batch == (32 if task == "contrastive" else 8)
    assert recipe.run.epochs * (48 // recipe.run.batch) >= 300
    set_by_hand = plan(f"folder/{task}", options={"data.source": images, f"{task}.model.patch_size": 16}).recipe
    assert set_by_hand.data.size == 32 and set_by_hand.own.model.patch_size == 16


def test_pre_training_on_own_images_never_takes_the_digits_recipe(tmp_path: Path) -> None:
    images = pictures(tmp_path / "mine", 12)
    run = pretrain(data=images, out=tmp_path / "run", overrides={"run.steps": 2, "contrastive.model.depth": 1})
    recipe = (run / "recipe.toml").read_text()
    assert "size = 40" in recipe and "flip = 0.5" in recipe and 'task = "contrastive"' in recipe
    assert plan(None, options={"data.source": "digits"}).name == "digits/contrastive"
    assert plan(None, options={"data.source": "locality:0.5"}).recipe.run.steps == 300


def test_a_folder_without_a_model_is_asked_for_one(tmp_path: Path) -> None:
    images = pictures(tmp_path / "mine", 4)
    with pytest.raises(FdlabError, match="No model was given") as caught:
        finetune(data=images, out=tmp_path / "run")
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
