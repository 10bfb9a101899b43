"""Labelled images of one's own: one split for every command, and bad input that is refused before any work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

from fdlab.cli.app import app
from fdlab.data.sources import open_data
from fdlab.data.splits import split_labelled
from fdlab.encoders.encoder import Encoder
from fdlab.errors import FdlabError
from fdlab.study.evaluate import evaluate
from fdlab.study.inputs import labelled_split
from fdlab.study.labelled import judged
from fdlab.study.training import plan
from tests.study.test_own_images import NAMES, pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=1, num_heads=3, num_classes=0)
    path = tmp_path_factory.mktemp("labelled") / "model.pth"
    torch.save(module.state_dict(), path)
    return path


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_a_folder_is_divided_as_fine_tuning_does_and_judges_itself(tmp_path: Path, model: Path, kind: str) -> None:
    images = str(pictures(tmp_path / "mine", 15))
    with pytest.warns(UserWarning, match="36 images are fitted on and 9 others judge"):
        table = evaluate(kind, [str(model)], images)
    assert table["n"].tolist() == [9] and table["objective"].tolist() == ["patches tokens, 36 labelled images"]
    assert table["value"][0] == 1.0 and 0 < table["low"][0] < 1  # colours tell the classes apart
    recipe = plan(None, task="classify", options={"data.source": images, "classify.model": model}).recipe
    fitted, held = labelled_split(open_data(images), recipe)
    split = judged(images)
    assert split.data.digest == open_data(images).subset(fitted).digest
    assert split.held.digest == open_data(images).subset(held).digest and not split.data.shared_with(split.held)


@pytest.mark.parametrize("part", ["val", "test"])
def test_parts_of_a_folder_are_taken_and_digits_stay_as_they_were(tmp_path: Path, part: str) -> None:
    pictures(tmp_path / "train", 4)
    pictures(tmp_path / part, 2, start=1)
    for text in (str(tmp_path), f"{tmp_path}#train"):
        split = judged(text)
        assert (len(split.data), len(split.held)) == (12, 6) and not split.data.shared_with(split.held)
    digits = judged("digits")
    assert digits.data.digest == open_data("digits#train").digest
    assert digits.held.digest == open_data("digits#test").digest


def test_a_rare_class_judges_too() -> None:
    labels = np.repeat([0, 1, 2], [90, 8, 2])
    fits, judges = split_labelled(labels, per_class=0, validation=10, seed=0)
    assert not len(fits) and np.bincount(labels[judges]).tolist() == [8, 1, 1]


def test_labels_of_a_table_reach_the_evaluation(tmp_path: Path, model: Path) -> None:
    images, flat = pictures(tmp_path / "mine", 8), tmp_path / "flat"
    flat.mkdir()
    rows = []
    for file in sorted(images.rglob("*.png")):
        file.rename(flat / f"{file.parent.name}-{file.name}")
        rows.append(f"{file.parent.name}-{file.name},{file.parent.name}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    words = ["evaluate", "linear", str(model), "--data", str(flat), "--labels", str(tmp_path / "labels.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "100.0 %" in done.output and "n = 5" in done.output, done.output


# --- bad input --------------------------------------------------------------------------------------------


def one_class(root: Path) -> None:
    pictures(root, 6)
    for name in NAMES[1:]:
        shutil.rmtree(root / name)


def one_class_in_a_table(root: Path) -> str:
    pictures(root, 6)
    files = sorted(file.relative_to(root) for file in root.rglob("*.png"))
    (root / "labels.csv").write_text("\n".join(f"{file},cat" for file in files))
    return f"{root}?labels={root / 'labels.csv'}"


def class_of_one_image(root: Path) -> None:
    pictures(root, 6)
    for file in sorted((root / "red").iterdir())[1:]:
        file.unlink()


def emptied_class(root: Path) -> None:
    pictures(root / "train", 6)
    pictures(root / "val", 6)
    for file in (root / "val" / "red").iterdir():
        file.unlink()


def tiny(root: Path) -> None:
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(np.full((7, 5, 3), number, dtype=np.uint8)).save(root / name / f"{number}.png")


def missing_file(root: Path) -> str:
    pictures(root, 6)
    (root / "labels.csv").write_text("red/0-0.png,a\nred/0-1.png,b\nnothing.png,a\n")
    return f"{root}?labels={root / 'labels.csv'}"


def no_permission(root: Path) -> None:
    pictures(root, 6)


BAD: dict[str, tuple[Callable[[Path], str | None], str, int]] = {
    "one class": (one_class, "two folders or more", 3),
    "one class in a table": (one_class_in_a_table, "are of one class", 3),
    "a class of one image": (class_of_one_image, "classes of one image: red", 3),
    "an emptied class": (emptied_class, "hold no image", 3),
    "smaller than a patch": (tiny, "smaller than one patch", 3),
    "a missing file": (missing_file, "1 files that are not there", 3),
    "no permission": (no_permission, "cannot be read", 3),
}


@pytest.mark.parametrize("verb", ["finetune", "linear"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_three_lines_before_any_forward_pass(
    tmp_path: Path, model: Path, verb: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, says, code = BAD[case]
    data = make(tmp_path / "mine") or str(tmp_path / "mine")
    if case == "no permission":
        scan = os.scandir

        def refused(path: str) -> object:
            if str(path).startswith(str(tmp_path / "mine")):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refused)  # root may list every folder
    monkeypatch.setattr(Encoder, "tokens", lambda *_given, **_more: pytest.fail("a forward pass"))
    out = tmp_path / "run"
    words = ["finetune", str(model), "-o", str(out)] if verb == "finetune" else ["evaluate", "linear", str(model)]
    done = CliRunner().invoke(app, [*words, "--data", data])
    assert isinstance(done.exception, FdlabError) and done.exception.code == code, done.output
    assert says in str(done.exception) and 2 <= len(str(done.exception).splitlines()) <= 3
    assert not out.exists()


def test_the_last_model_is_checked_before_the_first_is_run(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = str(pictures(tmp_path / "mine", 5))
    monkeypatch.setattr(Encoder, "tokens", lambda *_given, **_more: pytest.fail("a forward pass"))
    with pytest.warns(UserWarning, match="divided"), pytest.raises(FdlabError, match="nowhere"):
        evaluate("knn", [str(model), str(tmp_path / "nowhere.pth")], images)
