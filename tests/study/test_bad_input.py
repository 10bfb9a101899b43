"""What users and machines do to a training: it stops with what, why and what to do, and can go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fdlab.checkpoints.save import save_encoder
from fdlab.data.images import Images, ImageSource
from fdlab.data.sources import open_data
from fdlab.encoders.student import Design, build
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run
from fdlab.tasks.classify import Classify, ClassifySettings
from fdlab.tasks.distill import Distill, DistillSettings

ROOT = Path(__file__).resolve().parents[2]
TINY = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4}


def table(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in values.items()}


# ---- a loader's process that dies


KILLED = """
import json, multiprocessing, os, signal, sys, torch
from pathlib import Path
from fdlab.errors import FdlabError
from fdlab.study.training import plan, run

options, out, late = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"

def kill(step):
    if step == 5:
        worker = multiprocessing.active_children()[0]
        os.kill(worker.pid or 0, signal.SIGKILL)
        if late:
            worker.join()
            for _ in range(1000):
                torch.ones(4).sum()

if __name__ == "__main__":
    planned = plan("digits/masked", options={**options, "run.workers": 2})
    try:
        run(planned, out, quiet=True, on_step=[kill])
    except FdlabError as error:
        print(json.dumps({"what": error.what, "fix": error.fix, "code": error.code}))
"""


@pytest.mark.parametrize("late", [False, True], ids=["while it waits for data", "while it computes"])
def test_a_killed_worker_says_so_and_the_run_goes_on(tmp_path: Path, late: bool) -> None:
    """torch tells of it wherever the training is at that moment: in the loader, or in the middle of a step.

    It raises from a signal's handler, so the training has a process of its own: in the tests' own process, the error
    could arise in the middle of pytest.
    """
    own = {**table("masked.model", TINY), "run.steps": 40, "run.batch": 16, "save.every": 2, "data.resident": "off"}
    planned = plan("digits/masked", options={**own, "run.workers": 2})
    run(plan("digits/masked", options=own), tmp_path / "whole", quiet=True)
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    words = [sys.executable, str(script), json.dumps(own), str(tmp_path / "cut"), str(late)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    caught = json.loads(shown.splitlines()[-1])
    assert "A process that prepares batches has died" in caught["what"]
    assert caught["code"] == 4  # what a system short of memory does
    assert "run.workers=0" in caught["fix"]
    assert 4 <= torch.load(RunFolder(tmp_path / "cut").last, weights_only=True)["step"] < 40
    run(planned, tmp_path / "cut", quiet=True)
    whole, again = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


# ---- held-out labels that the head does not have


class Named(Images):
    """Grey images without names of classes, as a table of numbers gives them."""

    name, native_size = "named", (8, 8)

    def __init__(self, labels: list[int], start: int) -> None:
        super().__init__()
        self._labels, self.start = np.array(labels, dtype=np.int64), start

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def digest(self) -> str:
        return f"named {self.start}"

    def read(self, index: int) -> Tensor:
        return torch.full((3, 8, 8), (self.start + index) / 100)

    def labels(self, indices: Any) -> np.ndarray:
        return self._labels[np.asarray(indices)]


@pytest.mark.parametrize(
    ("labels", "said", "code"), [([0, 2, 3], "have a class 3.*0 to 2", 2), ([0, -1, 1], "no label", 3)]
)
@pytest.mark.parametrize("held", ["test", "validation"])
def test_held_out_classes_that_the_head_does_not_have_are_refused(
    labels: list[int], said: str, code: int, held: str
) -> None:
    data = ImageSource(Named([0, 1, 2, 0, 1, 2], 0), "train")
    settings = ClassifySettings(design=TINY)  # type: ignore[arg-type]
    with pytest.raises(FdlabError, match=said) as caught:
        Classify(settings, data, size=8, seed=0, **{held: ImageSource(Named(labels, 50), "held")})
    assert caught.value.code == code
    good = Classify(settings, data, size=8, seed=0, **{held: ImageSource(Named([0, 2, 1], 50), "held")})  # type: ignore[arg-type]
    assert good.evaluate()


# ---- masks and a teacher in stages


def test_masking_works_with_a_swin_teacher_and_hides_the_students_patches_alone(tmp_path: Path) -> None:
    """The student's patches are masked; the teacher sees the whole image, its coarser tokens are the target."""
    swin = Design(24, 2, 16, 3, 2, position="block_bias", init="timm", stages=(1, 2), window=3)
    path = save_encoder(
        tmp_path / "swin.safetensors", build(swin, seed=1), design=swin, mean=(0.5,) * 3, std=(0.5,) * 3,
        family="supervised", seed=1,
    )  # fmt: skip
    student = {**TINY, "position": "shared_bias", "drop_path": 0.0}
    settings = DistillSettings(teacher=str(path), mask=0.5, mask_loss="masked", student=student)  # type: ignore[arg-type]
    task = Distill(settings, open_data("digits#train[:64]"), size=24, seed=0)
    task.train_mode(True)
    images, _ = task.data.stack(range(6), 24)
    goal = task.targets[0](images)
    assert goal.shape == (6, 36, 32)
    torch.manual_seed(3)
    mask = task._mask(6)
    hidden = mask.view(6, 6, 6).repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand_as(images)
    changed = torch.where(hidden, 1 - images, images)
    assert not torch.allclose(task.targets[0](changed), goal, atol=1e-2)  # the teacher does see them
    task.targets[0].raw = lambda _images, raw=task.targets[0].raw(images): raw  # type: ignore[method-assign]
    losses = []
    for shown in (images, changed):
        torch.manual_seed(3)
        losses.append(float(task.loss(shown).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert task.loss(images).requires_grad


# ---- teachers with their own constants


CONSTANTS = (((0.4, 0.5, 0.6), (0.2, 0.3, 0.1)), ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)))


def test_every_teacher_and_the_student_see_the_view_in_their_own_constants(tmp_path: Path) -> None:
    """Two teachers, of which one sees another size: no two of the three networks may be swapped unnoticed."""
    paths = []
    for number, (mean, std) in enumerate(CONSTANTS):
        design = Design(24 if number == 0 else 32, 4, 16, 1, 2, position="sincos")
        path = tmp_path / f"{number}.safetensors"
        paths.append(save_encoder(path, build(design, seed=1), design=design, mean=mean, std=std, family="mim", seed=1))
    settings = DistillSettings(
        teacher=str(paths[0]), others=({"teacher": str(paths[1])},), student=TINY  # type: ignore[arg-type]
    )  # fmt: skip
    task = Distill(settings, open_data("digits#train[:64]"), size=24, seed=0)
    seen: list[Tensor] = []
    networks = [*task.frozen, task.encoder]
    for network in networks:
        network.patch_embed.register_forward_pre_hook(lambda _m, x: seen.append(x[0].detach()))  # type: ignore[union-attr]
    view, _ = task.data.stack(range(6), 24)
    task.train_mode(True)
    task.loss(view)
    constants = [*CONSTANTS, (task.mean, task.std)]
    resized = torch.nn.functional.interpolate(view, size=(32, 32), mode="bilinear", antialias=True)
    wanted = [view, resized, view]

    def error(images: Tensor, mean: Any, std: Any, goal: Tensor) -> float:
        undone = images * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)
        return float((undone - goal).abs().max())

    assert len(seen) == 3
    for number, (images, goal) in enumerate(zip(seen, wanted, strict=True)):
        errors = [error(images, mean, std, goal) for mean, std in constants]
        assert errors[number] < 1e-5
        assert min(errors[:number] + errors[number + 1 :]) > 0.02


# ---- a loss that is no number


def test_a_run_that_diverges_names_the_step_and_keeps_the_last_state(tmp_path: Path) -> None:
    own = {**table("masked.model", TINY), "run.steps": 60, "run.batch": 16, "save.every": 1, "run.log_every": 10}
    wild = plan("digits/masked", options={**own, "optim.lr": 1e30, "optim.clip": 0, "optim.warmup": 0})
    with pytest.raises(FdlabError, match=r"at step \d+ is not a number") as caught:
        run(wild, tmp_path / "run", quiet=True)
    said = int(caught.value.what.split("at step ")[1].split()[0])
    assert "last.pt" in caught.value.why
    state = torch.load(RunFolder(tmp_path / "run").last, weights_only=True)
    assert state["step"] == said  # steps count from 0: the state holds the steps before the bad one
    assert not RunFolder(tmp_path / "run").finished


# ---- a batch that does not divide


@pytest.mark.slow
def test_the_command_line_says_in_three_lines_which_batch_divides(tmp_path: Path) -> None:
    words = ["pretrain", "digits/masked", "-o", str(tmp_path / "run"), "--set", "run.batch=64", "--set"]
    done = subprocess.run(
        [sys.executable, "-m", "fdlab", *words, "run.accumulate=3"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "no 3 equal parts" in done.stderr
    assert "63" in done.stderr
    assert "Traceback" not in done.stderr
