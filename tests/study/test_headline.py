"""What a training says before its first step is what it then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fdlab.records.run_folder import RunFolder
from fdlab.study.headline import headline
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run

TINY = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4}
SMALL: dict[str, Any] = {
    "classify.model": "", "data.source": "digits#train", "data.test": "digits#test", "data.per_class": 5,
    "data.validation": 20, "run.batch": 10, "run.steps": 0, "run.epochs": 3, "run.device": "cpu",
    **{f"classify.design.{name}": value for name, value in TINY.items()},
}  # fmt: skip


def lines(options: dict[str, Any], recipe: str = "digits/supervised") -> list[str]:
    planned = plan(recipe, options=options)
    task, _, steps = prepared(planned.recipe, planned.task, "cpu")
    return headline(task, planned.recipe, steps, RunFolder("runs/x"))


def test_counts_are_those_of_the_training() -> None:
    text = "\n".join(lines(SMALL))
    assert "images: 50 to train on (10 classes, the smallest of 5), 20 to choose by, " in text and "to test on" in text
    assert "length: 15 steps of 10 images, 3 epochs of 5 steps" in text
    assert "runs/x/metrics.jsonl" in text and "the same command goes on" in text
    planned = plan("digits/supervised", options=SMALL)
    task, _, _ = prepared(planned.recipe, planned.task, "cpu")
    count = sum(p.numel() for p in task.module.parameters() if p.requires_grad)
    still = sum(p.numel() for p in task.module.parameters() if not p.requires_grad)
    assert f"trains {count / 1e6:.3g} million weights" in text
    assert f"{(16 * count + 4 * still) / 1e9:.2g} GB of" in text  # four copies of four bytes


def test_it_is_said_before_the_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(plan("digits/supervised", options={**SMALL, "run.epochs": 1}), tmp_path / "run", quiet=False)
    said = capsys.readouterr().err.splitlines()
    first = next(place for place, line in enumerate(said) if "length: 5 steps" in line)
    assert not any("5/5" in line for line in said[:first])
    run(plan("digits/supervised", options={**SMALL, "run.epochs": 1}), tmp_path / "quiet", quiet=True)
    assert not capsys.readouterr().err


def test_frozen_networks_are_counted_apart(tmp_path: Path) -> None:
    own = {f"contrastive.model.{name}": value for name, value in TINY.items()} | {"run.steps": 2, "run.batch": 8}
    teacher = run(plan("digits/contrastive", options=own), tmp_path / "t", quiet=True)
    text = "\n".join(lines({"distill.teacher": str(teacher), "run.steps": 4, "run.batch": 8}, "digits/distill"))
    assert "million frozen" in text and "4 steps of 8 images" in text
