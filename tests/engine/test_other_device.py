"""A whole step on a device that is not the CPU: torch's ``meta``, which refuses mixed devices and reading values.

It computes nothing, so it stands for a GPU where there is none: whatever was left on the CPU, or needs a value on the
host, is an error here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fdlab.checkpoints import open as opening
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run

SMALL: dict[str, Any] = {
    "data.source": "digits#train[:64]", "data.test": "", "data.per_class": 0, "data.validation": 0,
    "run.batch": 8, "run.steps": 6, "run.log_every": 100,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "digits/contrastive": {"view.randaugment": 2, "view.noise": 0.1},
    "digits/masked": {"view.rotate": 10, "optim.ema": 0.9},
    "digits/mae": {},
    "digits/dino": {},
    "digits/moco": {"optim.clip": 0},
    "digits/supervised": {
        "classify.mix.mixup": 0.8, "classify.mix.cutmix": 1.0, "classify.mix.erase": 0.9, "view.saturation": 0.3,
        "view.contrast": 0.2, "view.grey": 0.2, "classify.drop_path": 0.2,
    },
    "digits/distill": {"distill.mask": 0.5, "distill.norm": "standardise", "run.accumulate": 2},
    "digits/finetune": {"optim.kind": "lars", "classify.freeze": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {**SMALL, "run.steps": 2, "contrastive.model.depth": 2}
    return run(plan("digits/contrastive", options=own), tmp_path_factory.mktemp("o") / "teacher", quiet=True)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """``meta`` passes for a training device: no autocast, no fused optimiser there."""
    adamw, autocast = torch.optim.AdamW, torch.autocast

    def unfused(*args: Any, fused: bool, **kwargs: Any) -> torch.optim.Optimizer:
        return adamw(*args, fused=False, **kwargs)

    def cast(kind: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if kind == "meta" else autocast(kind, *args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", unfused)
    monkeypatch.setattr(torch, "autocast", cast)
    monkeypatch.setattr(opening, "pick_device", torch.device)
    return "meta"


class Doubles(TorchDispatchMode):
    """Notes operations that make double precision on the device: Apple's GPU has none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 and leaf.device.type == "meta":
                self.found.add(str(func))
        return out


@pytest.mark.parametrize("resident", ["off", "auto"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_stays_on_its_device(tmp_path: Path, teacher: Path, elsewhere: str, recipe: str, resident: str) -> None:
    more = {"digits/distill": {"distill.teacher": str(teacher)}, "digits/finetune": {"classify.model": str(teacher)}}
    own = {**SMALL, **RECIPES[recipe], **more.get(recipe, {}), "data.resident": resident}
    planned = plan(recipe, options=own)
    task, batches, _ = prepared(planned.recipe, planned.task, elsewhere)
    strategy, state = Strategy(task, planned.recipe), State(task, planned.recipe, RunFolder(tmp_path))
    task.train_mode(True)
    source, doubles = batches(0), Doubles()
    for step in range(2):
        made = source.prepare(step)
        with doubles:
            batch = source.finished(made)
            values = one_step(task, batch, step, 1e-3, planned.recipe, state, strategy)
        state.log.add(step, values, 1e-3)
        everything = [*batch.images, batch.labels, batch.indices, *values.values()]
        assert {tensor.device.type for tensor in everything} == {"meta"}
    assert doubles.found == set()


def test_what_was_left_on_the_cpu_is_noticed(elsewhere: str) -> None:
    with pytest.raises(RuntimeError):
        torch.ones(3) + torch.ones(3, device=elsewhere)
    with pytest.raises(RuntimeError):
        float(torch.ones(1, device=elsewhere))
