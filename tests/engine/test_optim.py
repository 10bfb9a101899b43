"""Learning rate and parameter groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fdlab.encoders.student import Design, build
from fdlab.engine.optim import learning_rate, make_optimizer, optimizer_groups, set_learning_rate
from fdlab.engine.settings import OptimSettings

DESIGN = Design(image_size=16, patch_size=4, width=16, depth=3, heads=2, class_token=True, layer_scale=0.1)


@given(
    total=st.integers(1, 400),
    warmup=st.floats(0, 0.9),
    lr=st.floats(1e-5, 1),
    floor=st.floats(0, 1),
)
def test_the_rate_never_rises_after_warmup_and_stays_above_its_floor(
    total: int, warmup: float, lr: float, floor: float
) -> None:
    settings = OptimSettings(lr=lr, warmup=warmup, floor=floor)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    after = [rate for step, rate in enumerate(rates) if step >= warmup * total]
    assert all(a >= b - 1e-12 for a, b in zip(after, after[1:], strict=False))
    assert max(rates) <= lr * (1 + 1e-9)
    assert all(rate >= min(floor, lr) - 1e-12 for rate in after)


def test_known_points_of_the_cosine() -> None:
    settings = OptimSettings(lr=1.0, warmup=0.1, floor=0.2)
    assert learning_rate(0, 100, settings) == pytest.approx(0.1)
    assert learning_rate(9, 100, settings) == pytest.approx(1.0)
    assert learning_rate(55, 100, settings) == pytest.approx(0.6)
    constant = OptimSettings(lr=1.0, warmup=20, schedule="constant")
    assert learning_rate(9, 100, constant) == pytest.approx(0.5)
    assert learning_rate(99, 100, constant) == 1.0


def test_layers_decay_from_the_head_down_and_vectors_are_spared() -> None:
    module = nn.ModuleDict({"encoder": build(DESIGN, seed=0), "head": nn.Linear(16, 4)})
    groups = optimizer_groups(module, OptimSettings(layer_decay=0.5, weight_decay=0.1))
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    encoder = module["encoder"]
    assert len(scale) == len(list(module.parameters()))
    assert scale[id(module["head"].weight)] == 1
    assert scale[id(encoder.blocks[2].attn.qkv.weight)] == pytest.approx(0.5)
    assert scale[id(encoder.blocks[0].attn.qkv.weight)] == pytest.approx(0.125)
    assert scale[id(encoder.patch_embed.proj.weight)] == pytest.approx(0.0625)
    assert decay[id(encoder.blocks[0].norm1.weight)] == 0
    assert decay[id(encoder.cls_token)] == 0
    assert decay[id(encoder.blocks[0].attn.qkv.weight)] == 0.1
    optimizer = make_optimizer(module, OptimSettings(layer_decay=0.5))
    set_learning_rate(optimizer, 0.25)
    assert {round(g["lr"], 6) for g in optimizer.param_groups} >= {0.25, 0.125}
    assert torch.isfinite(torch.tensor([g["lr"] for g in optimizer.param_groups])).all()


@pytest.mark.parametrize("position", ["sincos", "learned", "shared_bias", "block_bias", "none"])
@pytest.mark.parametrize("class_token", [False, True])
def test_every_design_gets_the_same_scales_and_no_table_is_decayed(position: str, class_token: bool) -> None:
    design = Design(16, 4, 16, 3, 2, position=position, class_token=class_token)  # type: ignore[arg-type]
    module = nn.ModuleDict({"encoder": build(design, seed=0), "head": nn.Linear(16, 4)})
    groups = optimizer_groups(module, OptimSettings(layer_decay=0.8, weight_decay=0.1))
    where = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    for name, parameter in module["encoder"].named_parameters():
        if not parameter.requires_grad:
            continue
        scale, decay = where[id(parameter)]
        if name.startswith("blocks."):
            assert scale == pytest.approx(0.8 ** (3 - int(name.split(".")[1])))
        elif name.startswith("patch_embed"):
            assert scale == pytest.approx(0.8**4)
        elif name.startswith("norm.") or "bias_table" in name:
            assert scale == pytest.approx(0.8)
        if "bias_table" in name or "pos_embed" in name:
            assert decay == 0


def test_a_swins_layers_have_the_official_levels() -> None:
    """By hand for depths (2, 2, 6, 2): of ids 0 to 13 a block has its number + 1, merging that of the block before."""
    design = Design(32, 2, 8, 12, 1, position="block_bias", init="timm", stages=(2, 2, 6, 2), window=4)
    module = nn.ModuleDict({"encoder": build(design, seed=0), "head": nn.Linear(64, 4)})
    groups = optimizer_groups(module, OptimSettings(layer_decay=0.8, weight_decay=0.1))
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    ids = {
        "patch_embed.proj.weight": 0,
        "patch_embed.norm.weight": 0,
        "layers.0.blocks.0.attn.qkv.weight": 1,
        "layers.0.blocks.1.mlp.fc1.weight": 2,
        "layers.1.downsample.reduction.weight": 2,
        "layers.1.downsample.norm.bias": 2,
        "layers.1.blocks.0.norm1.weight": 3,
        "layers.2.downsample.reduction.weight": 4,
        "layers.2.blocks.5.attn.qkv.weight": 10,
        "layers.3.downsample.norm.weight": 10,
        "layers.3.blocks.0.attn.qkv.weight": 11,
        "layers.3.blocks.1.attn.qkv.weight": 12,
        "norm.weight": 13,
    }
    parameters = dict(module["encoder"].named_parameters())
    found = {name: scale[id(parameters[name])] for name in ids}
    assert found == {name: pytest.approx(0.8 ** (13 - number)) for name, number in ids.items()}
    assert scale[id(module["head"].weight)] == 1
