"""The command line as a user meets it: exit codes, three-line errors, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def fdlab(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FDLAB_STORE": str(cwd / "store"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fdlab", *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr + done.stdout
    return done


def test_recipes_are_listed_and_shown(tmp_path: Path) -> None:
    assert "digits/distill:" in fdlab("recipes", cwd=tmp_path).stdout
    assert "bias_scale = 10" in fdlab("recipes", "show", "digits/distill", cwd=tmp_path).stdout


def test_dry_run_prints_each_value_with_its_source(tmp_path: Path) -> None:
    shown = fdlab("distill", "--teacher", "x.pth", "--set", "optim.lr=3e-4", "--dry-run", cwd=tmp_path).stdout
    assert "optim.lr = 0.0003  (--set)" in shown
    assert "distill.teacher = 'x.pth'  (command line)" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["distill"], 2, "--teacher"),
        (["distill", "--teacher", "absent.pth"], 3, "absent.pth"),
        (["pretrain", "digits/maskd"], 2, "digits/masked"),
        (["pretrain", "--set", "run.batchh=3"], 2, "run.batch"),
        (["pretrain", "--set", "run.batch=5000", "--set", "run.steps=2"], 2, "1297"),
        (["pretrain", "--data", "nowhere/"], 3, "nowhere"),
        (["diagnose", "attention", "vit_tiny_patch16_244"], 3, "Did you mean"),
        (["diagnose", "attention", "random:vit_tiny_patch16_224", "--data", "locality:2"], 2, "locality"),
        (["evaluate", "knn", "random:vit_tiny_patch16_224", "--pool", "classs"], 2, "--pool"),
        (["explain", "nmmi"], 2, "nmi"),
        (["demo", "--minutes", "0"], 2, "out of range"),
        (["runs", "absent"], 2, "absent"),
        (["finetune", "--data", "photos", "--set", "classify.model=random:vit_tiny_patch16_224"], 3, "label"),
    ],
)
def test_bad_input_says_what_to_do(tmp_path: Path, words: list[str], code: int, says: str) -> None:
    done = fdlab(*words, cwd=tmp_path, code=code)
    assert says in done.stderr


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html><html>not found</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "taken").write_text("a file")
    assert "page.pth" in fdlab("inspect", "page.pth", cwd=tmp_path, code=3).stderr
    assert "empty.pth" in fdlab("inspect", "empty.pth", cwd=tmp_path, code=3).stderr
    assert "pictures" in fdlab("pretrain", "--data", "pictures", cwd=tmp_path, code=3).stderr
    assert "taken" in fdlab("pretrain", "-o", "taken/run", cwd=tmp_path, code=1).stderr
    assert (tmp_path / "taken").read_text() == "a file"


SHORT = ["--set", "run.steps=6", "--set", "run.batch=16", "--set", "save.every=2", "--quiet"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    fdlab("pretrain", "digits/contrastive", "-o", "teacher", *SHORT, cwd=folder)
    return folder / "teacher"


def test_a_finished_run_does_nothing_and_changed_settings_are_refused(teacher: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in teacher.rglob("*") if p.is_file()}
    words = ["pretrain", "digits/contrastive", "-o", "teacher", *SHORT[:-1]]
    assert "finished already" in fdlab(*words, cwd=teacher.parent).stderr
    changed = fdlab(*words, "--set", "optim.lr=0.5", cwd=teacher.parent, code=2)
    assert "optim.lr: 0.002, now 0.5" in changed.stderr
    assert before == {p: p.stat().st_mtime_ns for p in teacher.rglob("*") if p.is_file()}


def test_each_step_works_alone(teacher: Path) -> None:
    home = teacher.parent
    fdlab("distill", "--teacher", "teacher", "-o", "student", *SHORT, cwd=home)
    tuned = fdlab("finetune", "student", "-o", "tuned", *SHORT[:-1], "--json", cwd=home)
    facts = json.loads(tuned.stdout)
    assert facts["labels"] == 200
    assert facts["count"] == 500
    shown = json.loads(fdlab("inspect", "student", "--json", cwd=home).stdout)
    assert shown["options"] == ["bias_scale 10"]
    table = json.loads(fdlab("evaluate", "knn", "a=teacher", "b=random:teacher", "--json", "--quiet", cwd=home).stdout)
    assert [row["model"] for row in table] == ["a", "b"]
    page = fdlab(
        "diagnose",
        "attention",
        "student",
        "teacher",
        "--data",
        "digits#test",
        "--images",
        "40",
        "--quiet",
        "-o",
        "report",
        cwd=home,
    ).stdout.strip()
    text = (home / page).read_text(encoding="utf-8")
    assert "bias_scale 10" in text
    listed = json.loads(fdlab("runs", ".", "--json", cwd=home).stdout)
    assert {item["state"] for item in listed} == {"finished"}


def test_an_unfinished_run_is_no_model_yet(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.toml").write_text((teacher / "recipe.toml").read_text())
    assert "not finished" in fdlab("inspect", "half", cwd=tmp_path, code=3).stderr


def test_nan_loss_stops_with_the_step(tmp_path: Path) -> None:
    done = fdlab(
        "pretrain",
        "digits/masked",
        "-o",
        "run",
        *SHORT,
        "--set",
        "optim.lr=1e38",
        "--set",
        "optim.clip=0",
        cwd=tmp_path,
        code=1,
    )
    assert "is not a number" in done.stderr
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


def test_diagnose_attribution_prints_gains_and_draws_both_figures(tmp_path: Path) -> None:
    asked = ["diagnose", "attribution", "x=random:test_vit", "--data", "digits", "--images", "9", "--no-control"]
    asked += ["--steps", "3", "--gradient-steps", "4", "-o", "out"]
    shown = fdlab(*asked, cwd=tmp_path)
    assert "x: score: cosine to the image's own feature" in shown.stdout
    assert "x: deletion_gain_gradients 0." in shown.stdout
    assert "of block" in shown.stdout
    for figure in ("attribution_curves", "head_effects"):
        assert (tmp_path / "out" / "figures" / f"{figure}.png").is_file()
    again = fdlab(*asked, "--json", cwd=tmp_path)
    assert "forward passes" not in again.stderr  # answered by the store
    assert {"head_effect", "insertion_curve_random"} <= {row["metric"] for row in json.loads(again.stdout)}
    refused = fdlab(*asked, "--target", "prediction", cwd=tmp_path, code=3)
    assert "holds no classifier" in refused.stderr


def test_diagnose_alone_uses_photographs_and_warns(tmp_path: Path) -> None:
    done = fdlab("diagnose", "attention", "random:vit_tiny_patch16_224", "--images", "8", "--no-control", cwd=tmp_path)
    assert "Note:" in done.stderr
    assert (tmp_path / "reports" / "attention" / "figures" / "attention_distance.pdf").stat().st_size > 5000


@pytest.mark.slow
def test_real_images_and_a_real_size(tmp_path: Path, shared: Callable[[str], Path]) -> None:
    """Folder of photographs with a timm ViT, CIFAR parquet through every verb."""
    photos, cifar = shared("data/imagenet_samples"), shared("data/cifar10/train.parquet")
    test = shared("data/cifar10/test.parquet")
    fdlab(
        "diagnose",
        "attention",
        "tiny=random:vit_tiny_patch16_224",
        "--data",
        photos,
        "--images",
        "16",
        "-o",
        "photos",
        "--quiet",
        cwd=tmp_path,
    )
    size = ["--set", "data.size=32", "--set", "contrastive.model.image_size=32"]
    fdlab("pretrain", "digits/contrastive", "--data", f"{cifar}[:640]", "-o", "teacher", *size, *SHORT, cwd=tmp_path)
    fdlab(
        "distill",
        "--teacher",
        "teacher",
        "--data",
        f"{cifar}[:640]",
        "--test",
        f"{test}[:64]",
        "-o",
        "student",
        "--set",
        "data.size=32",
        *SHORT,
        cwd=tmp_path,
    )
    fdlab(
        "finetune",
        "student",
        "--data",
        f"{cifar}[:2000]",
        "--test",
        f"{test}[:200]",
        "-o",
        "tuned",
        "--set",
        "data.size=32",
        *SHORT,
        cwd=tmp_path,
    )
    done = fdlab(
        "evaluate",
        "linear",
        "student",
        "--data",
        f"{cifar}[:500]",
        "--test",
        f"{test}[:200]",
        "--json",
        "--quiet",
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)[0]["n"] == 200
    fdlab("diagnose", "attention", "student", "--data", test, "--images", "32", "-o", "cifar", "--quiet", cwd=tmp_path)
