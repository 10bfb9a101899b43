"""DINO, MoCo v3, MAE: closed forms, what must not leak, and the state that an exact continuation needs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from fdlab.data.loader import Batch
from fdlab.data.sources import open_data
from fdlab.errors import FdlabError
from fdlab.tasks.base import find_task
from fdlab.tasks.dino import dino_loss
from fdlab.tasks.masking import visible_places
from fdlab.tasks.moco import info_nce
from fdlab.tasks.momentum import SlowCopy, momentum_at

MODEL = {"patch_size": 4, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.2}


def make(name: str, **own: Any) -> Any:
    task = find_task(name)
    made = task(task.Settings(model=own.pop("model", MODEL), **own), open_data("digits#train"), size=24, seed=0)
    made.steps = 10
    return made


def batch(count: int = 6, views: int = 2) -> Batch:
    images, labels = open_data("digits#train").stack(range(count * views), 24)
    return Batch(0, list(images.split(count)), labels[:count], torch.arange(count))


def test_the_momentum_rises_to_one_by_a_cosine() -> None:
    assert momentum_at(0, 100, 0.99) == pytest.approx(0.99)
    assert momentum_at(50, 100, 0.99) == pytest.approx(0.995)
    assert momentum_at(100, 100, 0.99) == 1.0


def test_a_slow_copy_follows_its_formula_and_is_never_trained() -> None:
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    slow = SlowCopy(module, ("encoder",))
    start = slow["encoder"].weight.clone()
    with torch.no_grad():
        module["encoder"].weight.zero_()
    slow.follow(module, 0.75)
    assert torch.allclose(slow["encoder"].weight, 0.75 * start)
    assert set(slow) == {"encoder"}
    assert not any(p.requires_grad for p in slow.parameters())


def test_dino_loss_has_its_closed_form() -> None:
    """A uniform student scores log K whatever the teacher; a student that agrees with the other view, its entropy."""
    student, teacher = torch.zeros(2, 3, 8), torch.randn(2, 3, 8)
    assert float(dino_loss(student, teacher, torch.zeros(8), 0.1, 0.04)) == pytest.approx(math.log(8), rel=1e-5)
    agreeing = dino_loss(teacher.flip(0), teacher, torch.zeros(8), 1.0, 1.0)
    p = teacher.softmax(-1)
    assert float(agreeing) == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)
    # The centre takes away what all images share.
    assert torch.allclose(
        dino_loss(student + teacher, teacher + 5, torch.full((8,), 5.0), 0.1, 0.04),
        dino_loss(student + teacher, teacher, torch.zeros(8), 0.1, 0.04),
    )


def test_dinos_centre_and_copy_move_after_the_step_alone() -> None:
    task = make("dino", prototypes=16, momentum=0.5, centre_momentum=0.75, freeze_last=0.1)
    task.train_mode(True)
    before = {name: tensor.clone() for name, tensor in task.slow.state_dict().items()}
    both = torch.cat(batch().images)
    outputs = task._outputs(task.slow, both)
    loss, metrics = task.step(batch(), 0)
    loss.backward()
    assert task.module["head"].prototypes.grad is None  # frozen in the first tenth
    assert task.centre.abs().max() == 0
    assert 0 <= float(metrics["teacher_entropy"]) <= math.log(16) + 1e-5
    with torch.no_grad():
        for parameter in task.module.parameters():
            parameter.add_(1.0)
    task.after_step(0)
    assert torch.allclose(task.centre, 0.25 * outputs.mean((0, 1)), atol=1e-6)
    name = "encoder.blocks.0.attn.qkv.weight"
    assert torch.allclose(task.slow.state_dict()[name], before[name] + 0.5, atol=1e-6)
    loss, _ = task.step(batch(), 1)
    loss.backward()
    assert task.module["head"].prototypes.grad is not None
    assert not any(m.training for m in task.slow.modules())


def test_info_nce_known_answers() -> None:
    same = torch.ones(4, 3)
    assert float(info_nce(same, same, 0.2)) == pytest.approx(0.4 * math.log(4), rel=1e-5)
    t = 0.5
    expected = -2 * t * math.log(math.exp(1 / t) / (math.exp(1 / t) + 3))
    assert float(info_nce(torch.eye(4), 7 * torch.eye(4), t)) == pytest.approx(expected, rel=1e-5)


def test_mocos_patch_projection_stays_and_its_copy_gets_no_gradient() -> None:
    task = make("moco")
    task.train_mode(True)
    loss, _ = task.step(batch(), 0)
    loss.backward()
    assert all(p.grad is None for p in task.encoder.patch_embed.parameters())
    assert all(p.grad is None for p in task.slow.parameters())
    assert task.module["predictor"][0].weight.grad is not None
    assert task.encoder.blocks[0].attn.qkv.weight.grad is not None


@pytest.mark.parametrize("class_token", [False, True])
def test_maes_encoder_never_sees_what_is_masked(class_token: bool) -> None:
    task = make("mae", model={**MODEL, "class_token": class_token, "drop_path": 0.0})
    task.train_mode(False)
    images = task.normalise(batch(views=1).images[0])
    torch.manual_seed(0)
    mask = torch.zeros(6, 36, dtype=torch.bool)
    mask[:, torch.randperm(36)[:27]] = True
    pixels = mask.view(6, 6, 6).repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).expand_as(images)
    places = visible_places(mask, 0.75)
    tokens = task.visible_tokens(images, places)
    assert tokens.shape == (6, 9 + class_token, 32)
    assert torch.equal(tokens, task.visible_tokens(torch.where(pixels, 7.0, images), places))
    assert not torch.allclose(tokens, task.visible_tokens(torch.where(pixels, images, 7.0), places))
    # With nothing masked it is the encoder itself: positions stand where they belong.
    none = torch.zeros_like(mask)
    assert torch.allclose(
        task.visible_tokens(images, visible_places(none, 0.0)), task.encoder.forward_features(images), atol=1e-5
    )
    assert not task.encoder.patch_drop._forward_hooks


def test_maes_decoder_puts_tokens_back_in_their_places() -> None:
    task = make("mae")
    decoder = task.module["decoder"]
    decoder.blocks = nn.Identity()
    decoder.norm = nn.Identity()
    mask = torch.rand(2, 36) < 0.5
    mask[1] = mask[0].flip(0)
    mask[:, :18] = ~mask[:, 18:]
    tokens = torch.randn(2, 18, 32)
    got = decoder(tokens, visible_places(mask, 0.5), 0)
    visible = decoder.pixels(decoder.embed(tokens) + decoder.positions.expand(2, -1, -1)[~mask].unflatten(0, (2, 18)))
    assert torch.allclose(got[~mask].unflatten(0, (2, 18)), visible, atol=1e-5)
    hidden = decoder.pixels(decoder.mask_token + decoder.positions)
    assert torch.allclose(got[0][mask[0]], hidden.expand(1, -1, -1)[0][mask[0]], atol=1e-5)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(FdlabError, match="relative bias needs the whole grid"):
        make("mae", model={**MODEL, "position": "shared_bias"})
    with pytest.raises(FdlabError, match="no class token"):
        make("dino", pool="class")
    with pytest.raises(FdlabError, match="decoder of width"):
        make("mae", width=10)


@pytest.mark.parametrize("name", ["dino", "moco", "mae"])
def test_the_state_holds_everything_that_moves(name: str) -> None:
    """A fresh task that loads the state goes on with the same losses."""
    first, views = make(name), 1 if name == "mae" else 2
    again = make(name)
    for task in (first, again):
        task.train_mode(True)

    def go(task: Any, step: int) -> float:
        torch.manual_seed(step)
        loss, _ = task.step(batch(views=views), step)
        task.module.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in task.module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
        task.after_step(step)
        return float(loss.detach())

    for step in range(3):
        go(first, step)
    again.load_state_dict({k: _copied(v) for k, v in first.state_dict().items()})
    assert [go(first, s) for s in (3, 4)] == [go(again, s) for s in (3, 4)]


def _copied(value: Any) -> Any:
    return {k: v.clone() for k, v in value.items()} if isinstance(value, dict) else value.clone()
