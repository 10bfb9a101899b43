"""Fine-tuning's parts: mixing, erasing, a frozen encoder, untied tables, parts of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fdlab.checkpoints.open import open_model
from fdlab.checkpoints.save import save_encoder
from fdlab.data.loader import Batch
from fdlab.data.sources import open_data
from fdlab.encoders.encoder import TimmCall
from fdlab.encoders.position_bias import untie_bias
from fdlab.encoders.student import Design, build, timm_call
from fdlab.engine.mixing import MixSettings, erase, mix, soft_cross_entropy
from fdlab.errors import FdlabError
from fdlab.tasks.base import find_task

MODEL = {"image_size": 24, "patch_size": 4, "width": 32, "depth": 2, "heads": 2}


def batch(step: int = 0, count: int = 8) -> Batch:
    images, labels = open_data("digits#train").stack(range(count), 24)
    return Batch(step, [images], labels, torch.arange(count))


def classify(**own: Any) -> Any:
    task = find_task("classify")
    return task(task.Settings(**own), open_data("digits#train").subset(range(60)), size=24, seed=0)


def test_mixup_blends_images_and_labels_by_the_same_weight() -> None:
    for step in range(6):
        plain = batch(step)
        got = mix(plain, MixSettings(mixup=0.8), 10, seed=1)
        assert got.targets is not None
        assert torch.allclose(got.targets.sum(1), torch.ones(8))
        x, y = plain.images[0], F.one_hot(plain.labels, 10).float()
        weight = got.targets[0, plain.labels[0]]
        assert torch.allclose(got.targets, weight * y + (1 - weight) * y.flip(0), atol=1e-6)
        assert torch.allclose(got.images[0], weight * x + (1 - weight) * x.flip(0), atol=1e-6)


def test_cutmix_weighs_the_label_by_the_area_that_was_cut() -> None:
    white = Batch(
        0, [torch.stack([torch.zeros(3, 24, 24), torch.ones(3, 24, 24)])], torch.tensor([0, 1]), torch.arange(2)
    )
    shares = set()
    for step in range(12):
        got = mix(Batch(step, white.images, white.labels, white.indices), MixSettings(cutmix=1.0), 2, seed=0)
        assert got.targets is not None
        share = float(got.images[0][0].mean())
        assert float(got.targets[0, 1]) == pytest.approx(share, abs=1e-6)
        assert set(got.images[0][0].unique().tolist()) <= {0.0, 1.0}
        shares.add(share)
    assert len(shares) > 6


def test_mixing_is_a_function_of_seed_and_step() -> None:
    both = MixSettings(mixup=0.8, cutmix=1.0)
    first, again, other = (mix(batch(s), both, 10, seed=0).images[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert mix(batch(), MixSettings(), 10, 0).targets is None
    assert mix(batch(), MixSettings(mixup=1.0, probability=0.0), 10, 0).targets is None


def test_erasing_leaves_one_box_of_noise() -> None:
    plain = batch()
    assert torch.equal(erase(plain, 0.0, 0, (0.5,) * 3, (0.2,) * 3).images[0], plain.images[0])
    got = erase(plain, 1.0, 0, (0.5,) * 3, (0.2,) * 3).images[0]
    for before, after in zip(plain.images[0], got, strict=True):
        changed = (before != after).any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert int(box) == int(changed.sum())
        assert 0.01 < int(box) / 576 < 0.36
    noise = (got[plain.images[0] != got] - 0.5) / 0.2
    assert abs(float(noise.std()) - 1) < 0.1


def test_soft_targets_agree_with_hard_ones() -> None:
    logits, labels = torch.randn(5, 7), torch.arange(5)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.allclose(soft_cross_entropy(logits, F.one_hot(labels, 7).float(), 0.1), hard)


def test_a_frozen_encoder_stays_in_evaluation_mode_and_does_not_move() -> None:
    task = classify(design={**MODEL, "drop_path": 0.5}, drop_path=0.5, freeze=True, head_norm="batchnorm")
    task.train_mode(True)
    assert task.couples_images
    assert task.module["norm"].training
    assert not any(module.training for module in task.encoder.modules())
    assert task.module["norm"].weight is None
    before = {name: tensor.clone() for name, tensor in task.encoder.state_dict().items()}
    loss, _ = task.step(batch(), 0)
    loss.backward()
    assert all(p.grad is None for p in task.encoder.parameters())
    assert task.module["head"].weight.grad is not None
    torch.optim.SGD([p for p in task.module.parameters() if p.requires_grad], lr=1.0).step()
    assert all(torch.equal(tensor, task.encoder.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("class_token", [False, True])
def test_untied_tables_compute_the_same_and_can_be_opened(tmp_path: Path, class_token: bool) -> None:
    design = Design(**MODEL, position="shared_bias", class_token=class_token, layer_scale=0.1)
    module = build(design, seed=0)
    with torch.no_grad():
        next(p for n, p in module.named_parameters() if "bias_table" in n).normal_(std=0.5)
    path = save_encoder(
        tmp_path / "m.safetensors", module, design=design, mean=(0.5,) * 3, std=(0.2,) * 3, family="distilled", seed=0
    )
    plain, untied = classify(model=str(path)), classify(model=str(path), untie_bias=True)
    images = batch().images[0]
    plain.train_mode(False), untied.train_mode(False)
    assert torch.allclose(plain.tokens(images), untied.tokens(images), atol=1e-5)
    tables = [p for n, p in untied.encoder.named_parameters() if "bias_table" in n]
    assert len(tables) == 2
    assert tables[0].data_ptr() != tables[1].data_ptr()
    out = tmp_path / "untied.safetensors"
    save_encoder(
        out, untied.encoder, design=None, call=untied.call, mean=(0.5,) * 3, std=(0.2,) * 3, family="x", seed=0
    )
    encoder = open_model(out)
    assert torch.allclose(encoder.module.forward_features(images), untied.encoder.forward_features(images), atol=1e-6)


def test_a_model_without_a_shared_table_has_nothing_to_untie() -> None:
    design = Design(**MODEL, position="sincos")
    with pytest.raises(FdlabError, match="no relative bias table"):
        untie_bias(build(design, seed=0), timm_call(design))
    with pytest.raises(FdlabError):
        untie_bias(nn.Linear(2, 2), TimmCall("torch.nn.Linear"))


def test_dropping_the_final_norm_pools_what_enters_it() -> None:
    task = classify(design=MODEL, final_norm=False)
    task.train_mode(False)
    images = batch().images[0]
    seen: list[torch.Tensor] = []
    task.encoder.norm.register_forward_pre_hook(lambda _m, x: seen.append(x[0]))
    assert torch.equal(task.tokens(images), seen[0])
    assert not any(p.requires_grad for p in task.encoder.norm.parameters())
    assert any("final norm" in note for note in task.notes)
