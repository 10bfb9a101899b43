"""The FLOPs behind MFU: each task's formula against torch's count of one of its steps, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run

BATCH = 16
SMALL: dict[str, Any] = {
    "data.source": "digits#train[:64]", "run.batch": BATCH, "run.steps": 4, "data.test": "", "data.per_class": 0,
    "data.validation": 0, "run.tensorboard": False,
}  # fmt: skip
SWIN = {"width": 32, "stages": [1, 2], "heads": 2, "window": 3, "patch_size": 2, "position": "block_bias",
        "layer_scale": 0.0, "init": "timm"}  # fmt: skip


def of(table: str, **values: Any) -> dict[str, Any]:
    return {f"{table}.{key}": value for key, value in values.items()}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive": ("digits/contrastive", {}),
    "masked": ("digits/masked", {}),
    "masked, class token, bias": ("digits/masked", of("masked.model", class_token=True, position="shared_bias")),
    "mae": ("digits/mae", {}),
    "mae, half": ("digits/mae", {"mae.ratio": 0.5, "mae.depth": 1, **of("mae.model", class_token=True)}),
    "dino": ("digits/dino", {"dino.freeze_last": 0.0}),
    "moco": ("digits/moco", {}),
    "moco, all trained": ("digits/moco", {"moco.freeze_patch": False}),
    "supervised": ("digits/supervised", {}),
    "supervised swin": ("digits/supervised", of("classify.design", **SWIN)),
    "contrastive swin": ("digits/contrastive", of("contrastive.model", **SWIN)),
    "distill": ("digits/distill", {}),
    "distill swin": ("digits/distill", of("distill.student", bias_scale=1.0, **SWIN)),
    "distill, masked, wide projector": ("digits/distill", {"distill.mask": 0.5, "distill.projector_hidden": 96}),
    "distill the mean": ("digits/distill", {"distill.target": "mean"}),
    "finetune": ("digits/finetune", {}),
    "linear probe": ("digits/finetune", {"classify.freeze": True}),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another depth and MLP ratio than the student's, and a class token."""
    own = {**SMALL, "run.steps": 1, **of("contrastive.model", depth=2, mlp_ratio=2.0, class_token=True)}
    return run(plan("digits/contrastive", overrides=own), tmp_path_factory.mktemp("f") / "teacher", quiet=True)


@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_the_count_of_a_step(tmp_path: Path, teacher: Path, case: str) -> None:
    recipe, own = CASES[case]
    start = {"digits/distill": {"distill.teacher": str(teacher)}, "digits/finetune": {"classify.model": str(teacher)}}
    planned = plan(recipe, overrides={**SMALL, **own, **start.get(recipe, {})})
    task, batches, _ = prepared(planned.recipe, planned.task, "cpu")
    for network in (task.module, *task.frozen):
        for part in network.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # fused, it would be counted as nothing
    strategy, state = Strategy(task, planned.recipe), State(task, planned.recipe, RunFolder(tmp_path))
    task.train_mode(True)
    batch = next(iter(batches(0)))
    with FlopCounterMode(display=False) as counter:
        one_step(task, batch, 0, 1e-3, planned.recipe, state, strategy)
    assert task.flops * BATCH == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_an_opened_models_cost_does_not_depend_on_its_file(teacher: Path) -> None:
    """Fine-tuning had no FLOPs where the encoder was opened rather than built."""
    opened = plan("digits/finetune", overrides={**SMALL, "classify.model": str(teacher)})
    task, _, _ = prepared(opened.recipe, opened.task, "cpu")
    assert task.design is None
    assert task.flops > 0
