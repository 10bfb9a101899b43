"""What only a CUDA GPU can show; skipped where there is none. Never run yet: there was no GPU when it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from fdlab.encoders.position_bias import align_bias
from fdlab.encoders.student import Design, build
from fdlab.engine.state import State
from fdlab.engine.strategy import Strategy
from fdlab.engine.trainer import one_step
from fdlab.records.run_folder import RunFolder
from fdlab.study.inputs import prepared
from fdlab.study.training import plan, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SMALL: dict[str, Any] = {
    "data.source": "digits#train[:64]", "data.test": "", "data.per_class": 0, "data.validation": 0,
    "run.batch": 16, "run.steps": 8, "run.log_every": 2, "run.device": "cuda", "save.every": 3,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "digits/contrastive": {"run.precision": "bf16"},
    "digits/masked": {},
    "digits/mae": {},
    "digits/dino": {},
    "digits/moco": {},
    "digits/supervised": {"classify.mix.mixup": 0.8, "classify.mix.erase": 0.9, "view.randaugment": 2},
    "digits/distill": {"distill.mask": 0.5, "run.precision": "bf16", "run.accumulate": 2},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = {**SMALL, "run.device": "cpu", "run.steps": 2, "contrastive.model.depth": 2}
    return run(plan("digits/contrastive", options=own), tmp_path_factory.mktemp("c") / "teacher", quiet=True)


def options(recipe: str, teacher: Path, **more: Any) -> dict[str, Any]:
    own = {"distill.teacher": str(teacher)} if recipe == "digits/distill" else {}
    return {**SMALL, **RECIPES[recipe], **own, **more}


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_synchronises(tmp_path: Path, teacher: Path, recipe: str) -> None:
    planned = plan(recipe, options=options(recipe, teacher, **{"run.log_every": 100}))
    task, batches, _ = prepared(planned.recipe, planned.task, "cuda")
    strategy, state = Strategy(task, planned.recipe), State(task, planned.recipe, RunFolder(tmp_path))
    task.train_mode(True)
    try:
        for step, batch in enumerate(state.log.waiting(batches(0))):
            values = one_step(task, batch, step, 1e-3, planned.recipe, state, strategy)
            state.log.add(step, values, 1e-3)
            torch.cuda.set_sync_debug_mode("error")  # from the second step on: constants are there
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("resident", ["off", "on"])
def test_deterministic_runs_are_equal_and_continue_bitwise(tmp_path: Path, teacher: Path, resident: str) -> None:
    whole = plan("digits/distill", options=options("digits/distill", teacher, **{"run.deterministic": True}))
    more = {"run.deterministic": True, "data.resident": resident}
    cut = plan("digits/distill", options=options("digits/distill", teacher, **more))

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    run(whole, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run(cut, tmp_path / "cut", quiet=True, on_step=[stop])
    run(cut, tmp_path / "cut", quiet=True)
    one, other = (load_file(tmp_path / name / "student.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_kernel_with_the_biass_gradient_takes_the_aligned_bias() -> None:
    """196 + 1 tokens, bfloat16: memory-efficient attention alone, its gradient close to the written-out one's."""
    gradients = []
    images = torch.randn(2, 3, 224, 224, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        model = build(Design(224, 16, 192, 2, 3, class_token=True), seed=0).cuda()
        align_bias(model)
        with sdpa_kernel(backend), torch.autocast("cuda", torch.bfloat16):
            model.forward_features(images).float().square().mean().backward()
        gradients.append(model.rel_pos_bias.relative_position_bias_table.grad)
    assert torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.99
