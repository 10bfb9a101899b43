"""A run that is killed and given again ends with the same numbers, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24


def words(recipe: str, out: Path, teacher: Path | None, workers: int) -> list[str]:
    verb = "distill" if teacher else "pretrain"
    settings = [f"run.steps={STEPS}", "run.batch=16", "save.every=3", "run.log_every=4", f"run.workers={workers}"]
    sets = [word for text in settings for word in ("--set", text)]
    return [verb, recipe, *(["--teacher", str(teacher)] if teacher else []), "-o", str(out), "--quiet", *sets]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "fdlab", *arguments], env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "workers"),
    [
        ("digits/contrastive", 0),
        ("digits/masked", 2),
        ("digits/distill", 0),
        ("digits/dino", 0),
        ("digits/moco", 2),
        ("digits/mae", 0),
        ("digits/supervised", 0),
    ],
)
def test_kills_at_any_moment_change_nothing(tmp_path: Path, recipe: str, workers: int) -> None:
    teacher = None
    if recipe == "digits/distill":
        teacher = tmp_path / "teacher"
        run(plan("digits/contrastive", options={"run.steps": 3, "run.batch": 16}), teacher, quiet=True)
    assert start(words(recipe, tmp_path / "whole", teacher, 0)).wait() == 0
    cut = tmp_path / "cut"
    for kills in range(3):
        process = start(words(recipe, cut, teacher, workers))
        target = 3 + 7 * kills
        while process.poll() is None:
            log = RunFolder(cut).read_log()
            if RunFolder(cut).last.is_file() and log and log[-1]["step"] >= target:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(words(recipe, cut, teacher, workers)).wait() == 0
    name = RunFolder(cut).result
    assert name is not None
    whole, again = load_file(tmp_path / "whole" / name.name), load_file(name)
    assert whole.keys() == again.keys()
    assert all((whole[key] == again[key]).all() for key in whole)
    lines = [
        [(line["step"], line.get("loss")) for line in RunFolder(tmp_path / n).read_log()] for n in ("whole", "cut")
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("resident", ["off", "on"])
def test_a_run_in_this_process_continues_and_records_itself(tmp_path: Path, resident: str) -> None:
    """Whether the images live on the device or come from the loader: the same file."""
    own = {"run.steps": 6, "run.batch": 16, "save.every": 2, "save.snapshots": 3}
    whole_plan = plan("digits/masked", options=own)
    planned = plan("digits/masked", options={**own, "data.resident": resident})

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    run(whole_plan, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path / "cut", quiet=True, on_step=[stop])
    assert not RunFolder(tmp_path / "cut").finished
    run(planned, tmp_path / "cut", quiet=True)
    whole, again = (load_file(tmp_path / n / "encoder.safetensors") for n in ("whole", "cut"))
    assert all((whole[key] == again[key]).all() for key in whole)
    assert len(list((tmp_path / "cut" / "snapshots").iterdir())) == 2
    table = (tmp_path / "cut" / "record" / "table.csv").read_text()
    assert "final_loss" in table
    assert (tmp_path / "cut" / "heads.safetensors").is_file()


@pytest.mark.parametrize("recipe", ["digits/dino", "digits/moco", "digits/mae", "digits/supervised", "digits/distill"])
def test_state_of_its_own_survives_a_stop_in_mid_epoch(tmp_path: Path, recipe: str) -> None:
    """Slow copies, centres, running statistics, averages, mixing and masks: the same file, the same log."""
    options: dict[str, Any] = {"run.steps": 7, "run.batch": 16, "save.every": 2, "run.log_every": 1, "optim.ema": 0.5}
    if recipe == "digits/distill":
        run(plan("digits/contrastive", options={"run.steps": 2, "run.batch": 16}), tmp_path / "teacher", quiet=True)
        options |= {"distill.teacher": str(tmp_path / "teacher"), "distill.norm": "standardise", "distill.mask": 0.3}
    if recipe == "digits/supervised":
        options |= {"classify.mix.mixup": 0.8, "classify.mix.cutmix": 1.0, "classify.mix.erase": 0.5}
        options |= {"view.randaugment": 2, "classify.drop_path": 0.2}
    planned = plan(recipe, options=options)

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    run(planned, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path / "cut", quiet=True, on_step=[stop])
    run(planned, tmp_path / "cut", quiet=True)
    folders = [RunFolder(tmp_path / name) for name in ("whole", "cut")]
    files = [load_file(folder.result) for folder in folders if folder.result]
    assert len(files) == 2
    assert all((files[0][key] == files[1][key]).all() for key in files[0])
    lines = [[(line["step"], line.get("loss")) for line in folder.read_log()] for folder in folders]
    assert lines[0] == lines[1]
