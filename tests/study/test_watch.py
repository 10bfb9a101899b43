"""Numbers along the way: right, by epochs, without effect on the training; the best state by one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fdlab.engine.distributed import Ranks
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.records.store import Record
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run
from fdlab.study.watch import Watch, steps_of

SMALL: dict[str, Any] = {"data.source": "digits#train[:64]", "run.batch": 16, "run.steps": 10, "run.log_every": 1}
WATCHED: dict[str, Any] = {"watch.every": 1, "watch.images": 32, "watch.labelled": 40}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {**SMALL, "run.steps": 2, "contrastive.model.depth": 2}
    return run(plan("digits/contrastive", options=own), tmp_path_factory.mktemp("w") / "teacher", quiet=True)


def distilled(teacher: Path, out: Path, **more: Any) -> RunFolder:
    own = {**SMALL, "distill.teacher": str(teacher), "distill.student.depth": 2, **more}
    return RunFolder(run(plan("digits/distill", options=own), out, quiet=True))


def test_numbers_by_epochs_and_no_effect_on_the_training(tmp_path: Path, teacher: Path) -> None:
    test = {"data.test": "digits#test[:40]"}
    plain = distilled(teacher, tmp_path / "plain", **test)
    watched = distilled(teacher, tmp_path / "watched", **test, **WATCHED)
    lines = [line for line in watched.read_log() if "knn" in line]
    assert [line["step"] for line in lines] == [4, 8, 10]  # 4 steps an epoch, and the end
    for line in lines:
        assert 0 <= line["knn"] <= 1
        assert 1 <= line["effective_rank"] <= 31
        assert -1 <= line["target_cosine"] <= 1
        assert "test_loss" in line
    assert lines[-1]["target_cosine"] > lines[0]["target_cosine"]
    assert watched.facts()["knn"] == lines[-1]["knn"]
    one, other = (load_file(folder.path / "student.safetensors") for folder in (plain, watched))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_known_answers(tmp_path: Path, teacher: Path) -> None:
    """Features that are the class: k-NN is right; over two directions: rank 2; prediction = target: cosine 1."""
    own = {**SMALL, **WATCHED, "distill.teacher": str(teacher), "data.test": "digits#test[:40]"}
    planned = plan("digits/distill", options=own)
    task, _, _ = prepared(planned.recipe, planned.task, "cpu")
    watch = Watch(task, planned.recipe)
    answers = iter([watch.judged.labels(), watch.bank.labels()])

    def features(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.from_numpy(next(answers)), 10).float()

    task.kept_features = features  # type: ignore[method-assign]
    task.tokens = lambda images: task.targets[0](images)[:, :, :1].expand(-1, -1, 8)  # type: ignore[method-assign]
    task._predictions = lambda student, wanted: [3 * wanted[0]]  # type: ignore[method-assign]
    found = watch()
    assert found["knn"] == 1.0
    assert found["target_cosine"] == pytest.approx(1.0, abs=1e-6)
    one_hot = np.eye(10)[watch.judged.labels()]
    singular = np.linalg.svd(one_hot - one_hot.mean(0), compute_uv=False)
    shares = singular[singular > 1e-9] / singular.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_the_best_state_by_a_watched_number(tmp_path: Path, teacher: Path) -> None:
    """The file is the weights of the step with the highest k-NN accuracy on validation images."""
    own = {**WATCHED, "data.validation": 16, "save.best": "knn", "save.export": "best", "save.snapshots": 1}
    folder = distilled(teacher, tmp_path / "best", **own, **{"optim.lr": 0.05})
    lines = {line["step"]: line["knn"] for line in folder.read_log() if "knn" in line}
    best = max(lines, key=lambda step: (lines[step], -step))
    facts = folder.facts()
    assert facts["best_step"] == best
    assert facts["knn"] == lines[best]
    kept, there = load_file(folder.path / "student.safetensors"), load_file(folder.snapshot(best))
    assert all(torch.equal(kept[key], there[key]) for key in kept)


def test_test_images_choose_no_state(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(FdlabError, match="chosen on test images"):
        distilled(teacher, tmp_path / "x", **WATCHED, **{"save.best": "knn", "data.test": "digits#test[:40]"})


@pytest.mark.parametrize("best", ["knn", "test_los", "accuracy"])
def test_a_monitor_that_nothing_gives_is_refused_before_the_first_step(
    tmp_path: Path, teacher: Path, best: str
) -> None:
    with pytest.raises(FdlabError, match="No evaluation of this run gives") as caught:
        distilled(teacher, tmp_path / "x", **{"save.best": best, "data.test": "digits#test[:40]"})
    assert caught.value.code == 2
    assert "There will be: test_loss." in str(caught.value.why)
    assert not RunFolder(tmp_path / "x").last.exists()


def test_training_images_alone_give_no_knn_and_say_so(tmp_path: Path) -> None:
    own = {**SMALL, **WATCHED, "run.steps": 4, "masked.model.depth": 2, "data.test": ""}
    folder = RunFolder(run(plan("digits/masked", options=own), tmp_path / "m", quiet=True))
    (line,) = [line for line in folder.read_log() if "effective_rank" in line]
    assert "knn" not in line
    assert "target_cosine" not in line
    assert any("training images" in note for note in folder.facts()["notes"])


@pytest.mark.parametrize("setting", ["watch.every", "watch.probe_every"])
def test_endless_images_have_no_epochs(tmp_path: Path, setting: str) -> None:
    own = {"data.source": "locality:0.5", "data.size": 32, "data.test": "", "run.batch": 4, "run.steps": 1}
    with pytest.raises(FdlabError, match="no epochs"):
        run(plan("digits/masked", options={**own, setting: 1}), tmp_path / "e", quiet=True)


def test_the_attention_probe_along_the_way(tmp_path: Path, teacher: Path) -> None:
    own = {"watch.probe_every": 1, "watch.probe_images": 16, "data.test": "digits#test[:40]"}
    plain = distilled(teacher, tmp_path / "plain", **{"data.test": "digits#test[:40]"})
    probed = distilled(teacher, tmp_path / "probed", **own)
    folders = sorted((probed.path / "probes").iterdir())
    assert [folder.name for folder in folders] == ["attention-0000004", "attention-0000008"]
    record = Record.load(folders[-1])
    assert record.manifest["step"] == 8
    assert {"distance", "nmi"} <= set(record.table["metric"])
    assert set(record.table["model"]) == {"probed step 8"}
    one, other = (load_file(folder.path / "student.safetensors") for folder in (plain, probed))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert json.loads((folders[0] / "manifest.json").read_text())["step"] == 4


def test_one_rank_is_told_its_own_value() -> None:
    assert Ranks().told({"a": 1.0}) == {"a": 1.0}


def test_epochs_as_steps() -> None:
    planned = plan("digits/masked", options={**SMALL, "data.source": "digits#train[:70]"})  # 4 batches of 16, 6 left
    task, _, _ = prepared(planned.recipe, planned.task, "cpu")
    assert steps_of(3, task, planned.recipe) == 12
    assert steps_of(0, task, planned.recipe) == 0
