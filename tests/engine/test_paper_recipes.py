"""The paper's recipes: each value says where it comes from, and the published ones are the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.student import Design, timm_call
from fdlab.engine import recipe as recipes
from fdlab.engine.optim import learning_rate, make_optimizer, set_learning_rate
from fdlab.engine.settings import Recipe
from fdlab.study.training import plan

PAPER = [name for name in recipes.names() if name.startswith("paper/")]
OFFICIAL = {
    "fd_pretrain__clip_vit_base__img224__100ep": "paper/clip-b-100ep",
    "fd_pretrain__clip_vit_base__img224__300ep": "paper/clip-b-300ep",
    "fd_pretrain__clip_vit_large__img224__300ep": "paper/clip-l-300ep",
    "fd_pretrain__dino_vit_base__img224__300ep": "paper/dino-b-300ep",
    "fd_pretrain__deit_vit_base__img224__300ep": "paper/deit-b-300ep",
    "fd_pretrain__esvit_swin_base__img224__300ep": "paper/esvit-swin-b-300ep",
    "fd_finetune__clip_vit_base__img224__100ep": "paper/finetune-clip-b-100ep",
    "fd_finetune__clip_vit_base__img224__300ep": "paper/finetune-clip-b-300ep",
    "fd_finetune__clip_vit_large__img224__300ep": "paper/finetune-clip-l-300ep",
    "fd_finetune__dino_vit_base__img224__300ep": "paper/finetune-dino-b-300ep",
    "fd_finetune__deit_vit_base__img224__300ep": "paper/finetune-deit-b-300ep",
    "fd_finetune__esvit_swin_base__img224__300ep": "paper/finetune-esvit-swin-b-300ep",
}


@pytest.mark.parametrize("name", PAPER)
def test_every_value_says_whether_it_is_published_corrected_or_ours(name: str) -> None:
    tables = recipes.flat(recipes.read(name))
    silent = tables.keys() - recipes.origins(name).keys() - {"about", "task"}
    assert not silent
    assert not [said for said in recipes.origins(name).values() if said == "corrected"], "say what was wrong"


@pytest.mark.parametrize("official", OFFICIAL)
def test_published_values_are_those_of_the_official_configuration(official: str, shared: Callable[[str], Path]) -> None:
    known = json.loads(shared("reference/recipes.json").read_text())["recipes"][official]
    name = OFFICIAL[official]
    recipe = plan(name).recipe
    assert recipe.run.epochs == known["epochs"]
    assert recipe.run.batch == known["global_batch"]
    assert recipe.data.size == known["image_size"]
    assert recipe.optim.lr == pytest.approx(known["peak_lr"])
    assert recipe.optim.warmup * known["epochs"] == pytest.approx(known["warmup_epochs"], rel=1e-6)
    assert recipe.optim.warmup_start == pytest.approx(known["warmup_start_lr"])
    assert recipe.optim.floor == pytest.approx(known["floor_lr"])
    assert recipe.optim.weight_decay == known["weight_decay"]
    assert recipe.optim.clip == known["gradient_clip_norm"]
    own: Any = recipe.own
    if known["stage"] == "finetune":
        assert own.drop_path == known["drop_path"]
        assert recipe.optim.layer_decay == known["layer_decay"]
    else:
        assert own.student.drop_path == known["drop_path"]
        assert recipe.view.crop == (known["crop_scale_min"], 1.0)


def small(official: str) -> tuple[TimmCall, int]:
    """A narrow model with the official depth, and its number of blocks."""
    if "swin" in official:
        stages = (2, 2, 18, 2)
        return timm_call(Design(64, 2, 8, 24, 1, position="block_bias", init="timm", stages=stages, window=4)), sum(
            stages
        )
    depth = 24 if "large" in official else 12
    return timm_call(Design(16, 8, 8, depth, 2, position="block_bias", class_token=True)), depth


def rates(recipe: Recipe, call: TimmCall, total: int) -> torch.Tensor:
    """(steps, groups) learning rates as the trainer sets them."""
    module = nn.ModuleDict({"encoder": call.make(), "head": nn.Linear(8, 4)})
    optimizer = make_optimizer(module, recipe.optim)
    rows = []
    for step in range(total):
        set_learning_rate(optimizer, learning_rate(step, total, recipe.optim))
        rows.append([group["lr"] for group in optimizer.param_groups])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("official", [name for name in OFFICIAL if "finetune" in name])
def test_no_layer_is_below_its_floor_or_rises_after_the_warmup(official: str, shared: Callable[[str], Path]) -> None:
    known = json.loads(shared("reference/recipes.json").read_text())["recipes"][official]
    recipe, total = plan(OFFICIAL[official]).recipe, 200
    call, depth = small(official)
    table = rates(recipe, call, total)
    scale = table[-1] / table[-1].max()
    warm = round(recipe.optim.warmup * total)
    assert (table[warm:].diff(dim=0) <= 0).all()
    assert (table[:warm].diff(dim=0) > 0).all()
    assert (table >= recipe.optim.floor * scale - 1e-15).all()
    assert len(scale.round(decimals=12).unique()) == known["layer_groups"] == depth + 2
    assert float(table.max(0).values.min()) == pytest.approx(known["peak_lr_first_group"], rel=1e-4)


def test_the_official_floor_would_make_the_first_layers_of_l14_rise() -> None:
    """What was put right: one floor of 2e-6 for all lies above the peak of groups 0 to 3."""
    optim = plan("paper/finetune-clip-l-300ep").recipe.optim
    peaks = [optim.lr * optim.layer_decay ** (25 - group) for group in range(26)]
    assert [group for group, peak in enumerate(peaks) if peak < optim.floor] == [0, 1, 2, 3]


FT_CLIP_B = {
    "data.size": 224,
    "run.epochs": 50,
    "run.batch": 2048,
    "optim.lr": 6e-4,
    "optim.weight_decay": 0.05,
    "optim.warmup": 10 / 50,
}
FT_CLIP_B |= {"optim.layer_decay": 0.6, "optim.ema": 0.9998, "classify.drop_path": 0.0, "classify.untie_bias": False}
FT_CLIP_B |= {"classify.mix.mixup": 0.0, "classify.mix.cutmix": 0.0}
FT_CLIP_L = {
    "data.size": 224,
    "run.epochs": 30,
    "optim.lr": 4e-4,
    "optim.warmup": 5 / 30,
    "optim.layer_decay": 0.65,
    "classify.untie_bias": False,
}


@pytest.mark.parametrize(("size", "known"), [("b", FT_CLIP_B), ("l", FT_CLIP_L)])
def test_a_tuned_clip_recipe_calls_published_what_ft_clip_published_and_nothing_else(
    size: str, known: dict[str, Any]
) -> None:
    name = f"paper/finetune-clip-{size}-tuned"
    values = recipes.flat(recipes.read(name))
    published = {key for key, said in recipes.origins(name).items() if said.startswith("published")}
    assert published == known.keys()
    assert {key: values[key] for key in known} == pytest.approx(known, rel=1e-6)
