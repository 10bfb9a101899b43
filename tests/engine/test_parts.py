"""A batch in parts, averaged weights, the best state: the same numbers, and kept through a stop."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file
from timm.layers import DropPath
from torch import nn

from fdlab.engine.average import Average
from fdlab.engine.optim import make_optimizer
from fdlab.engine.settings import OptimSettings
from fdlab.engine.shares import Share, SharedDropPath, drawn, equal_shares, share_drop_path, sharing
from fdlab.engine.state import State
from fdlab.errors import FdlabError
from fdlab.records.run_folder import RunFolder
from fdlab.study.training import plan, run


def test_shared_drop_path_is_timms_and_its_parts_are_slices() -> None:
    ours = nn.Sequential(DropPath(0.4), nn.Linear(3, 3))
    share_drop_path(ours)
    assert type(ours[0]) is SharedDropPath
    x = torch.randn(8, 5, 3)
    torch.manual_seed(0)
    whole = DropPath(0.4)(x)
    torch.manual_seed(0)
    assert torch.equal(ours[0](x), whole)
    parts = []
    for share in equal_shares(8, 4):
        assert share is not None
        torch.manual_seed(0)
        with sharing(share):
            parts.append(ours[0](x[share.start : share.stop]))
    assert torch.equal(torch.cat(parts), whole)


def test_rows_of_several_views_are_drawn_view_by_view() -> None:
    rows = torch.arange(12)
    with sharing(Share(2, 4, 6)):
        assert drawn(4, lambda count: rows[:count]).tolist() == [2, 3, 8, 9]


PARTED: dict[str, dict[str, Any]] = {
    "digits/distill": {"distill.mask": 0.5, "distill.mask_loss": "all", "distill.norm": "standardise"},
    "digits/masked": {"masked.model.drop_path": 0.3},
    "digits/mae": {"mae.model.drop_path": 0.1},
    "digits/dino": {"dino.model.drop_path": 0.1, "dino.freeze_last": 0.2},
    "digits/supervised": {"classify.drop_path": 0.1, "classify.mix.mixup": 0.8, "classify.mix.cutmix": 1.0},
}


@pytest.mark.parametrize("recipe", PARTED)
def test_one_part_two_and_four_give_the_same_losses(tmp_path: Path, recipe: str) -> None:
    """Drop path (0.1 or 0.3), masks and mixing on, the same batch of 16: 20 losses equal to 1e-5."""
    options: dict[str, Any] = {"run.steps": 20, "run.batch": 16, "run.log_every": 1, **PARTED[recipe]}
    if recipe == "digits/distill":
        run(plan("digits/contrastive", options={"run.steps": 2, "run.batch": 16}), tmp_path / "teacher", quiet=True)
        options |= {"distill.teacher": str(tmp_path / "teacher")}
    curves = []
    for parts in (1, 2, 4):
        folder = tmp_path / f"parts{parts}"
        run(plan(recipe, options={**options, "run.accumulate": parts}), folder, quiet=True)
        curves.append([line["loss"] for line in RunFolder(folder).read_log() if "loss" in line])
    assert len(curves[0]) == 20
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[2] == pytest.approx(curves[0], rel=1e-5)


def test_batches_that_cannot_be_parted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FdlabError, match="cannot be computed in 2 parts, one after"):
        run(plan("digits/contrastive", options={"run.accumulate": 2}), tmp_path / "a", quiet=True)
    with pytest.raises(FdlabError, match="no 3 equal parts"):
        run(plan("digits/masked", options={"run.accumulate": 3}), tmp_path / "b", quiet=True)


def test_an_average_follows_its_formula() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.ones_(module.weight)
    average = Average(module, 0.9)
    nn.init.zeros_(module.weight)
    average.update(module)
    average.update(module)
    assert torch.allclose(average.state["weight"], torch.full((1, 2), 0.81))
    with average.inside(module):
        assert torch.allclose(module.weight, torch.full((1, 2), 0.81))
    assert module.weight.abs().max() == 0


def test_lars_has_the_published_step() -> None:
    """p -= lr * trust * |p| / |g + wd p| * (g + wd p) for a matrix; a vector takes plain SGD's step."""
    module = nn.ModuleDict({"head": nn.Linear(2, 1)})
    head = module["head"]
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 4.0]]))
        head.bias.fill_(1.0)
    for decay in (0.0, 0.5):
        optimizer = make_optimizer(
            module, OptimSettings(kind="lars", lr=0.1, momentum=0.0, trust=0.01, weight_decay=decay)
        )
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
        head.weight.grad, head.bias.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([5.0])
        optimizer.step()
        update = torch.tensor([[0.0, 2.0]]) + decay * weight
        trust = 0.01 * weight.norm() / (torch.tensor(2.0) + decay * weight.norm())
        assert torch.allclose(head.weight, weight - 0.1 * trust * update, rtol=1e-4)
        assert torch.allclose(head.bias, bias - 0.1 * 5.0)


SMALL = {"run.steps": 12, "run.batch": 16, "save.every": 4, "run.evaluate_every": 3, "data.validation": 60}
DESIGN = {f"classify.design.{k}": v for k, v in {"patch_size": 4, "width": 16, "depth": 1, "heads": 2}.items()}


def test_average_and_best_survive_a_stop_and_are_exported(tmp_path: Path) -> None:
    options = {**SMALL, **DESIGN, "optim.ema": 0.9, "save.best": "validation_accuracy", "save.export": "best"}
    planned = plan("digits/finetune", options=options)

    def stop(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    run(planned, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        run(planned, tmp_path / "cut", quiet=True, on_step=[stop])
    run(planned, tmp_path / "cut", quiet=True)
    whole, again = (load_file(tmp_path / n / "encoder.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    facts = RunFolder(tmp_path / "cut").facts()
    judged = {
        line["step"]: line["validation_accuracy"]
        for line in RunFolder(tmp_path / "cut").read_log()
        if "validation_accuracy" in line
    }
    assert list(judged) == [3, 6, 9, 12]
    assert facts["validation_accuracy"] == max(judged.values())
    assert judged[int(facts["best_step"])] == max(judged.values())
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(("name", "values", "best"), [("knn", [0.2, 0.5, 0.4, 0.5], 2), ("test_loss", [3, 1, 2, 1], 2)])
def test_the_best_evaluation_is_the_highest_or_of_losses_the_lowest(name: str, values: list[float], best: int) -> None:
    """Of equal evaluations the first one stays."""
    state = object.__new__(State)  # nothing of it but the best evaluation is asked
    state.recipe, state.ranks, state.best = SimpleNamespace(save=SimpleNamespace(best=name)), MagicMock(), {}
    for step, value in enumerate(values, 1):
        state.keep_best(step, {name: value})
    assert (state.best["step"], state.best["value"]) == (best, values[best - 1])
    assert state.ranks.first.call_count == best  # each better one is written


def test_a_best_number_that_is_not_evaluated_is_named(tmp_path: Path) -> None:
    options = {"run.steps": 2, "run.batch": 8, "save.best": "validation_accuracy"}
    with pytest.raises(FdlabError, match="gives 'validation_accuracy'"):
        run(plan("digits/masked", options=options), tmp_path, quiet=True)


def test_recomputed_blocks_give_the_same_run(tmp_path: Path) -> None:
    files = []
    for on in (False, True):
        options = {"run.steps": 4, "run.batch": 8, "masked.model.drop_path": 0.3, "run.checkpoint_blocks": on}
        run(plan("digits/masked", options=options), tmp_path / str(on), quiet=True)
        files.append(load_file(tmp_path / str(on) / "encoder.safetensors"))
    assert all(torch.allclose(files[0][key], files[1][key], atol=1e-6) for key in files[0])
