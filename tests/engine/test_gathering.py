"""Losses and norms that compare the images of a batch: two ranks give the numbers of one."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fdlab.engine.gathering import gathered, own_rows
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run

# Tests are no package (importlib mode), so a neighbour is loaded by its path.
_spec = importlib.util.spec_from_file_location("torchrun", Path(__file__).with_name("torchrun.py"))
assert _spec is not None
torchrun = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(torchrun)

COMMON: dict[str, Any] = {
    "run.steps": 20, "run.batch": 16, "run.log_every": 1, "data.source": "digits#train[:160]",
}  # fmt: skip
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "contrastive": ("pretrain", "digits/contrastive", {"contrastive.model.drop_path": 0.1}),
    "contrastive, fsdp": ("pretrain", "digits/contrastive", {"run.strategy": "fsdp"}),
    # At the recipe's 2e-3, a start changed by 1e-7 changes MoCo's loss by 2e-2 within 20 steps on one process.
    "moco": ("pretrain", "digits/moco", {"optim.lr": 1e-4, "moco.model.drop_path": 0.1}),
    "dino": ("pretrain", "digits/dino", {"dino.freeze_last": 0.2, "dino.model.drop_path": 0.1}),
    "batch norm": (
        "finetune",
        "digits/finetune",
        {"classify.head_norm": "batchnorm", "classify.mix.mixup": 0.8, "data.per_class": 0, "data.validation": 0,
         "data.test": "digits#test[:50]", "optim.lr": 1e-4},
    ),
    "linear probe": (
        "finetune",
        "digits/finetune",
        {"classify.head_norm": "batchnorm", "classify.freeze": True, "optim.kind": "lars", "optim.lr": 0.1,
         "data.per_class": 0, "data.validation": 0, "data.test": "digits#test[:50]"},
    ),
}  # fmt: skip


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in RunFolder(folder).read_log() if "loss" in line]


def matrices(folder: Path) -> dict[str, torch.Tensor]:
    """The run's weight matrices and its heads' running variances.

    Not the vectors: the gradient of a bias of keys, or of one before a batch norm, is truly zero, and Adam makes full
    steps from the rounding of that.
    """
    files = [load_file(folder / f"{name}.safetensors") for name in ("encoder", "heads")]
    state = {key: tensor.double() for file in files for key, tensor in file.items()}
    return {key: tensor for key, tensor in state.items() if tensor.ndim > 1 or key.endswith("running_var")}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {**COMMON, "run.steps": 2}
    return run(plan("digits/contrastive", options=own), tmp_path_factory.mktemp("runs") / "start", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_give_the_losses_of_one(tmp_path: Path, start: Path, case: str) -> None:
    """20 losses equal to 1e-5, and in the end the weights and the running statistics of heads."""
    verb, recipe, more = CASES[case]
    own = {**COMMON, **more, **({"classify.model": str(start)} if verb == "finetune" else {})}
    alone = {key: value for key, value in own.items() if key != "run.strategy"}
    run(plan(recipe, overrides=alone), tmp_path / "one", quiet=True)
    sets = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
    given = [str(start)] if verb == "finetune" else [recipe]
    code, _, said = torchrun.finish([verb, *given, "-o", str(tmp_path / "two"), *sets])
    assert code == 0, said
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    assert one == pytest.approx(two, rel=1e-5)
    first, second = (matrices(tmp_path / folder) for folder in ("one", "two"))
    assert first.keys() == second.keys()
    away = {key: float((first[key] - second[key]).norm() / first[key].norm()) for key in first}
    assert max(away.values()) < 5e-3, away
    facts = [RunFolder(tmp_path / folder).facts() for folder in ("one", "two")]
    assert facts[0].get("correct") == facts[1].get("correct")


@pytest.mark.slow
def test_two_ranks_that_are_killed_continue_bitwise(tmp_path: Path) -> None:
    """MoCo: slow copies and batch norms' statistics are equal on both ranks, and one writes them."""

    def words(out: Path) -> list[str]:
        own = {**COMMON, "run.steps": 40, "save.every": 7}
        return ["pretrain", "digits/moco", "-o", str(out), *(w for k, v in own.items() for w in ("--set", f"{k}={v}"))]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert torchrun.finish(words(whole))[0] == 0
    process, end = torchrun.start(words(cut)), time.monotonic() + 60
    while len(losses(cut)) < 12:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert torchrun.finish(words(cut))[0] == 0
    first, second = (load_file(folder / "encoder.safetensors") for folder in (whole, cut))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert losses(whole) == losses(cut)


@pytest.mark.slow
def test_a_slow_copy_needs_whole_weights(tmp_path: Path) -> None:
    sets = torchrun.sets(run__steps=2, run__strategy="fsdp")
    code, _, said = torchrun.finish(["pretrain", "digits/dino", "-o", str(tmp_path / "d"), *sets])
    assert code != 0
    assert "task=dino cannot be used with run.strategy=fsdp" in said


@pytest.mark.parametrize("recipe", ["digits/contrastive", "digits/moco"])
def test_parts_one_after_the_other_are_refused(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(FdlabError, match=r"in 4 parts, one after the other") as caught:
        run(plan(recipe, options={**COMMON, "run.accumulate": 4}), tmp_path / "a", quiet=True)
    assert caught.value.code == 2
    assert "torchrun" in caught.value.fix


def test_alone_nothing_is_gathered() -> None:
    rows = torch.randn(6, 3, requires_grad=True)
    assert gathered(rows, views=2) is rows
    assert torch.equal(own_rows(rows), rows)
