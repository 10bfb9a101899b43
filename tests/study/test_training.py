"""Honest data and honest continuation: nothing overlaps, nothing changes under a run, one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.evaluate import evaluate
from fdlab.study.inputs import labelled_split
from fdlab.study.training import plan, run

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"run.steps": 4, "run.batch": 8, "save.every": 2}
DESIGN = {f"classify.design.{k}": v for k, v in {"patch_size": 4, "width": 16, "depth": 1, "heads": 2}.items()}


def folder_of(path: Path, classes: dict[str, int]) -> Path:
    draw = np.random.default_rng(0)
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for index in range(count):
            pixels = draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{index}.png")
    return path


def test_test_images_that_are_trained_on_are_refused(tmp_path: Path) -> None:
    options = {**SHORT, **DESIGN, "data.source": "digits", "data.test": "digits#test"}
    with pytest.raises(FdlabError, match="of the test images digits#test are among") as caught:
        run(plan("digits/finetune", options=options), tmp_path / "run", quiet=True)
    assert caught.value.code == 2
    with pytest.raises(FdlabError, match="are among"):
        evaluate("knn", ["random:vit_tiny_patch16_224"], "digits", "digits#test")


def test_labelled_validation_and_test_images_are_disjoint() -> None:
    data, test = open_data("digits#train"), open_data("digits#test")
    labelled, held = labelled_split(data, plan("digits/finetune").recipe)
    assert (len(labelled), len(held)) == (200, 400)
    assert not set(labelled) & set(held)
    assert data.shared_with(test) == 0
    assert data.shared_with(data.subset(held)) == 400
    assert np.bincount(data.labels()[labelled]).tolist() == [20] * 10


def test_all_labels_are_used_where_none_are_counted_out() -> None:
    data = open_data("digits#train")
    recipe = plan("digits/finetune", options={"data.validation": 97}, overrides={"data.per_class": 0}).recipe
    labelled, held = labelled_split(data, recipe)
    assert len(held) == 97
    assert sorted([*labelled, *held]) == list(range(len(data)))


def test_own_images_are_never_judged_on_the_recipes_test_images(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", {"a": 12, "b": 9})
    options = {**SHORT, **DESIGN, "data.source": str(images)}
    few = {"data.per_class": 4, "data.validation": 6}
    path = run(plan("digits/finetune", options=options, overrides=few), tmp_path / "run", quiet=True)
    facts = RunFolder(path).facts()
    assert "accuracy" not in facts
    assert 0 <= facts["validation_accuracy"] <= 1
    other = folder_of(tmp_path / "other", {"a": 3, "c": 3})
    with pytest.raises(FdlabError, match="different classes"):
        run(plan("digits/finetune", options={**options, "data.test": str(other)}, overrides=few), tmp_path / "r2")


def test_a_changed_teacher_is_noticed_when_going_on(tmp_path: Path) -> None:
    def teach(seed: int) -> None:
        run(plan("digits/contrastive", options={**SHORT, "run.seed": seed}), tmp_path / f"teacher{seed}", quiet=True)

    teach(0)
    teach(1)
    planned = plan("digits/distill", options={**SHORT, "distill.teacher": str(tmp_path / "teacher0")})

    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path / "student", quiet=True, on_step=[stop])
    (tmp_path / "teacher0" / "encoder.safetensors").write_bytes(
        (tmp_path / "teacher1" / "encoder.safetensors").read_bytes()
    )
    with pytest.raises(FdlabError, match="its teacher changed"):
        run(planned, tmp_path / "student", quiet=True)


def test_two_writers_never_share_a_run(tmp_path: Path) -> None:
    planned = plan("digits/masked", options=SHORT)
    folder = RunFolder(tmp_path / "run")
    folder.prepare(planned.recipe.as_toml())
    code = (
        "import sys; from fdlab.records.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked(): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(FdlabError, match="Another process"):
            run(planned, folder.path, quiet=True)
    finally:
        other.kill()
        other.communicate()
    run(planned, folder.path, quiet=True)
    assert folder.finished


def test_one_unreadable_image_is_left_out_and_counted(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", {"a": 12, "b": 12})
    test = folder_of(tmp_path / "test", {"a": 5, "b": 4})
    (test / "b" / "3.png").write_bytes((test / "b" / "3.png").read_bytes()[:90])
    options = {**SHORT, **DESIGN, "data.source": str(images), "data.test": str(test)}
    few = {"data.per_class": 8, "data.validation": 0}
    facts = RunFolder(
        run(plan("digits/finetune", options=options, overrides=few), tmp_path / "run", quiet=True)
    ).facts()
    assert facts["count"] == 8
    assert facts["skipped_images"] == 1
