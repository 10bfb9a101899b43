"""Students: parameter count, positions, initialisers, bias scale, purity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fdlab.encoders.encoder import Encoder
from fdlab.encoders.positions import sincos_table
from fdlab.encoders.student import Design, build, fold_bias_scale, stock_state, timm_call
from fdlab.errors import FdlabError

SMALL = Design(24, 4, 32, 2, 4, layer_scale=0.1)
ALL = [
    replace(SMALL, position=position, class_token=token)
    for position in ("shared_bias", "block_bias", "sincos", "learned", "none")
    for token in (False, True)
]
IDS = [f"{d.position}-{'cls' if d.class_token else 'patches'}" for d in ALL]


def randomise_tables(module):
    for owner in module.modules():
        if hasattr(owner, "relative_position_bias_table") and owner.relative_position_bias_table is not None:
            for parameter in owner.parameters():
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))


def test_paper_student_has_the_papers_parameter_count():
    design = Design(224, 16, 768, 12, 12, class_token=True, layer_scale=0.1, init="beit")
    with torch.device("meta"):
        module = timm_call(design).make()
    assert sum(p.numel() for p in module.parameters()) == 85_665_360
    assert module.rel_pos_bias.relative_position_bias_table.shape == (732, 12)
    assert isinstance(module.norm, nn.LayerNorm) and module.norm.eps == 1e-6


@pytest.mark.parametrize("design", ALL, ids=IDS)
def test_every_position_gives_tokens_and_attention(design):
    encoder = Encoder.wrap(build(design, seed=0))
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    count = 36 + design.class_token
    tokens = encoder.tokens(images)
    assert tokens.shape == (2, count, 32)
    assert encoder.info.prefix_tokens == int(design.class_token) and encoder.info.grid == (6, 6)
    maps = encoder.attention(images, blocks=(0, 1, -1))
    assert list(maps) == [0, 1, -1] and torch.equal(maps[1], maps[-1])
    assert maps[0].shape == (2, 4, count, count)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 4, count))
    # Layer norm of what enters the final norm is what leaves it.
    torch.testing.assert_close(encoder.module.norm(encoder.tokens(images, norm=False)), tokens)
    assert tokens.requires_grad


def test_positions_start_as_designed():
    for design in ALL[:4]:
        tables = [p for name, p in build(design, seed=0).named_parameters() if name.endswith("bias_table")]
        assert len(tables) == (1 if design.position == "shared_bias" else design.depth)
        assert all(not table.any() for table in tables)
        # 11 x 11 offsets, and three rows for the class token
        assert all(table.shape == (121 + 3 * design.class_token, 4) for table in tables)
    table = build(replace(SMALL, position="sincos", class_token=True), seed=0).pos_embed
    assert not table.requires_grad and not table[:, 0].any()
    assert float(table.max()) == 1.0
    assert build(replace(SMALL, position="none"), seed=0).pos_embed is None
    assert 0.015 < float(build(replace(SMALL, position="learned"), seed=0).pos_embed.detach().std()) < 0.025


def test_sincos_table_is_its_formula():
    table = sincos_table((2, 3), 8)
    row, column, frequency = 1.0, 2.0, torch.tensor([1.0, 0.01])
    expected = torch.cat([f(p * frequency) for p in (column, row) for f in (torch.sin, torch.cos)])
    torch.testing.assert_close(table[1 * 3 + 2], expected)


def test_initialisers_follow_their_bounds():
    xavier = build(SMALL, seed=0)
    weight = xavier.blocks[0].mlp.fc1.weight.detach()
    bound = (6 / sum(weight.shape)) ** 0.5
    assert 0.98 * bound < float(weight.abs().max()) <= bound and not xavier.blocks[0].mlp.fc1.bias.any()
    patch = xavier.patch_embed.proj.weight.detach().flatten(1)
    assert 0.98 * (6 / sum(patch.shape)) ** 0.5 < float(patch.abs().max()) <= (6 / sum(patch.shape)) ** 0.5
    beit = build(replace(SMALL, class_token=True, init="beit"), seed=0)
    assert 0.0195 < float(beit.blocks[0].attn.qkv.weight.detach().abs().max()) <= 0.02
    for number, block in enumerate(beit.blocks, start=1):
        for branch in (block.attn.proj, block.mlp.fc2):
            largest = 0.02 / (2 * number) ** 0.5
            assert 0.97 * largest < float(branch.weight.detach().abs().max()) <= largest * 1.0001


def test_build_is_a_pure_function_of_design_and_seed():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build(SMALL, seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    second, other = build(SMALL, seed=1).state_dict(), build(SMALL, seed=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("position", ["shared_bias", "block_bias"])
@pytest.mark.parametrize("token", [False, True])
def test_folding_the_bias_scale_keeps_the_function(position, token):
    design = replace(SMALL, position=position, class_token=token, bias_scale=10.0)
    module = build(design, seed=0).eval()
    randomise_tables(module)
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scaled = module.forward_features(images)
        stock = timm_call(design).make().eval()
        stock.load_state_dict(stock_state(module), strict=True)
        torch.testing.assert_close(stock.forward_features(images), scaled, atol=0, rtol=0)
        fold_bias_scale(module)
        assert module.state_dict().keys() == stock.state_dict().keys()
        torch.testing.assert_close(module.forward_features(images), scaled, atol=0, rtol=0)
        unscaled = build(replace(design, bias_scale=1.0), seed=0).eval()
        assert not torch.allclose(unscaled.forward_features(images), scaled, atol=1e-3)
    assert design.options == ("bias_scale 10",) and SMALL.options == ()


def test_the_bias_scale_multiplies_the_gradient():
    gradients = []
    for scale in (1.0, 10.0):
        module = build(replace(SMALL, bias_scale=scale), seed=0)
        images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        module.forward_features(images).square().mean(1).sum().backward()
        (table,) = [p.grad for name, p in module.named_parameters() if "bias_table" in name]
        gradients.append(table)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], 10 * gradients[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"image_size": 25},
        {"position": "rope"},
        {"init": "zero"},
        {"position": "none", "bias_scale": 2.0},
        {"bias_scale": 0.0},
        {"depth": 0},
        {"position": "sincos", "width": 30, "heads": 3},
    ],
)
def test_impossible_designs_are_refused(change):
    with pytest.raises(FdlabError) as caught:
        replace(SMALL, **change)
    assert caught.value.code == 2 and caught.value.why
