"""Filter-normalised directions and moving a model along them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from fdlab.measures.directions import filter_direction, moving, normalised, share_moved


def small() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=5).eval()


def test_known_answer(shared: Callable[[str], Path]) -> None:
    case = json.loads(shared("reference/curvature_truth.json").read_text())["filter_norm"]
    found = normalised(*(torch.tensor(case[key], dtype=torch.float64) for key in ("weight", "d")))
    torch.testing.assert_close(found, torch.tensor(case["rows"], dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_filters_of_a_fresh_model_keep_their_length() -> None:
    parameters = dict(small().named_parameters())
    found = filter_direction(parameters, 3)
    for name, direction in found.items():
        torch.testing.assert_close(direction.flatten(1).norm(dim=1), parameters[name].detach().flatten(1).norm(dim=1))
    assert set(found) == {n for n, p in parameters.items() if p.dim() > 1 and n not in ("cls_token", "pos_embed")}
    moved = sum(parameters[n].numel() for n in found) / sum(p.numel() for p in parameters.values())
    assert share_moved(parameters, found) == pytest.approx(moved)
    assert {"cls_token", "pos_embed"} <= set(filter_direction(parameters, 3, tokens=True))


def test_a_direction_depends_on_seed_number_and_name_alone() -> None:
    parameters = dict(small().named_parameters())
    first = filter_direction(parameters, 0)
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(filter_direction({name: parameters[name]}, 0)[name], first[name])
    assert not torch.equal(filter_direction(parameters, 0, 1)[name], first[name])
    signs = torch.cat([d.flatten() for d in first.values()]).sign()
    assert abs(float(signs.mean())) < 0.05  # both signs, unlike a uniform draw


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_bit_identical_after_an_interruption(error: type[BaseException]) -> None:
    module = small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    parameters = dict(module.named_parameters())
    direction = filter_direction(parameters, 0)
    with pytest.raises(error), moving(parameters) as place:
        for step in range(50):
            place.go((0.01 * step, direction), (-0.3, filter_direction(parameters, 0, 1)))
        assert not torch.equal(module.state_dict()["patch_embed.proj.weight"], before["patch_embed.proj.weight"])
        raise error
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters()) and not module.training
